"""Names in DETR3D's official checkpoints (``detr3d_resnet101.pth`` and siblings) and ours."""

from __future__ import annotations

from det3d.checkpoints.mmdet3d import (
    BACKBONE_RULES,
    DETR3D_HEAD_RULES,
    HEAD_RULES,
    Rules,
    code_from_released,
)
from detr2d.checkpoints.rename import Table


def fpn_rules(num_stages: int) -> Rules:
    """Names in a feature pyramid over ``num_stages`` backbone stages; later levels are extra."""
    return (
        (r"img_neck\.lateral_convs\.(\d)\.conv\.(.+)", r"neck.pyramid.inner_blocks.\1.0.\2"),
        *(
            (
                rf"img_neck\.fpn_convs\.{num_stages + extra}\.conv\.(.+)",
                rf"neck.pyramid.extra_blocks.convs.{extra}.\1",
            )
            for extra in range(3)
        ),
        (r"img_neck\.fpn_convs\.(\d)\.conv\.(.+)", r"neck.pyramid.layer_blocks.\1.0.\2"),
    )


def detr3d_table(num_stages: int) -> Table:
    """The table for a DETR3D whose neck sees ``num_stages`` backbone stages."""
    return Table(
        rules=(*BACKBONE_RULES, *fpn_rules(num_stages), *HEAD_RULES, *DETR3D_HEAD_RULES),
        edits=((r"box_heads\.\d+\.4\.(weight|bias)", code_from_released),),
    )
