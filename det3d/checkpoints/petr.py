"""Names in PETR's and PETRv2's official checkpoints and ours.

1 x 1 convolutions are linear layers here, over channels-last maps: the same weights without the two
trailing axes.
"""

from __future__ import annotations

from torch import Tensor

from det3d.checkpoints.mmdet3d import BACKBONE_RULES, HEAD_RULES, Rules, code_from_released
from detr2d.checkpoints.rename import Table

_LAYER = r"pts_bbox_head\.transformer\.decoder\.layers\.(\d+)\."

PETR_RULES: Rules = (
    *BACKBONE_RULES,
    (r"img_neck\.lateral_convs\.(\d)\.conv\.(.+)", r"neck.laterals.\1.\2"),
    (r"img_neck\.fpn_convs\.0\.conv\.(.+)", r"neck.output.\1"),
    *HEAD_RULES,
    (_LAYER + r"attentions\.1\.attn\.(.+)", r"decoder.\1.cross_attention.attention.\2"),
    (r"pts_bbox_head\.transformer\.decoder\.post_norm\.(.+)", r"norm.\1"),
    (r"pts_bbox_head\.input_proj\.(.+)", r"projection.\1"),
    (r"pts_bbox_head\.position_encoder\.(.+)", r"rays.embed.\1"),
    (r"pts_bbox_head\.adapt_pos3d\.(.+)", r"cells.adapt.\1"),
    (r"pts_bbox_head\.reference_points\.weight", "queries.points"),
    (r"pts_bbox_head\.query_embedding\.(.+)", r"queries.embed.\1"),
    (r"pts_bbox_head\.cls_branches\.(.+)", r"class_heads.\1"),
)


def without_pixels(weight: Tensor) -> Tensor:
    """Weight (C_out, C_in) of a linear layer from that of a 1 x 1 convolution."""
    return weight.flatten(1)


def x_before_y(weight: Tensor) -> Tensor:
    """Columns (C, 3 * n) for coordinates in the order x, y, z from the released y, x, z."""
    blocks = weight.unflatten(1, (3, -1))
    return blocks[:, [1, 0, 2]].flatten(1)


LINEAR_EDITS = (
    (r"projection\.weight", without_pixels),
    (r"(rays\.embed|cells\.adapt|guide\.gate)\.\d\.weight", without_pixels),
    (r"queries\.embed\.0\.weight", x_before_y),
)


def petr_table() -> Table:
    """The table of PETR's checkpoints; its heads are one module, stored once per layer."""
    return Table(
        rules=(*PETR_RULES, (r"pts_bbox_head\.reg_branches\.(.+)", r"box_heads.\1")),
        edits=(*LINEAR_EDITS, (r"box_heads\.\d+\.4\.(weight|bias)", code_from_released)),
    )


def rotation_from_released(rows: Tensor) -> Tensor:
    """Rows of (sin, cos) of our yaw, of released ones."""
    return -rows.flip(0)


def petrv2_table() -> Table:
    """The table of PETRv2's checkpoints, with and without denoising."""
    box = r"pts_bbox_head\.reg_branches\.(\d)\."
    return Table(
        rules=(
            *PETR_RULES,
            (r"pts_bbox_head\.fpe\.conv_reduce\.(.+)", r"guide.gate.0.\1"),
            (r"pts_bbox_head\.fpe\.conv_expand\.(.+)", r"guide.gate.2.\1"),
            (box + r"reg_branch\.0\.(.+)", r"box_heads.\1.trunk.0.\2"),
            (box + r"reg_branch\.3\.(.+)", r"box_heads.\1.trunk.2.\2"),
            (box + r"task_heads\.(\d)\.(.+)", r"box_heads.\1.heads.\2.\3"),
        ),
        edits=(
            *LINEAR_EDITS,
            (r"box_heads\.\d+\.heads\.3\.2\.(weight|bias)", rotation_from_released),
        ),
    )
