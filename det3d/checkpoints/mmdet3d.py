"""What released DETR3D and PETR weights share: key names, and mmdet3d 0.17's idea of a box.

Its LiDAR box is (x, y, z, width, length, height, yaw, vx, vy) with yaw_old = -yaw - pi / 2 of ours,
and its code is (x, y, log width, log length, z, log height, sin yaw_old, cos yaw_old, vx, vy).
Then sin yaw = -cos yaw_old and cos yaw = -sin yaw_old, so the two codes differ by the order and the
sign of their entries, and so do the last rows of a box head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from det3d.geometry import wrap_angle

CODE_ORDER = (0, 1, 4, 3, 2, 5, 7, 6, 8, 9)
"""Where each entry of our code stands in the released one."""
CODE_SIGNS = (1, 1, 1, 1, 1, 1, -1, -1, 1, 1)
"""The sign that it changes by."""

Rules = tuple[tuple[str, str | None], ...]
_LAYER = r"pts_bbox_head\.transformer\.decoder\.layers\.(\d+)\."


def code_from_released(rows: Tensor) -> Tensor:
    """Entries or rows (10, ...) in our order and sign, of released ones."""
    signs = rows.new_tensor(CODE_SIGNS).view(-1, *(1 for _ in rows.shape[1:]))
    return rows[list(CODE_ORDER)] * signs


def codes_to_released(codes: Tensor) -> Tensor:
    """Released codes (..., 10) of ours."""
    place = [CODE_ORDER.index(entry) for entry in range(len(CODE_ORDER))]
    return (codes * codes.new_tensor(CODE_SIGNS))[..., place]


def boxes_from_released(boxes: Tensor) -> Tensor:
    """Our boxes (..., 9) of released ones with gravity centres; the map is its own inverse."""
    yaw = wrap_angle(-boxes[..., 6:7] - torch.pi / 2)
    return torch.cat([boxes[..., :3], boxes[..., [4, 3, 5]], yaw, boxes[..., 7:9]], dim=-1)


BACKBONE_RULES: Rules = (
    (r"img_backbone\..+\.num_batches_tracked", None),
    (r"img_backbone\.stem\.stem_1/(.+)", r"backbone.stem.0.\1"),
    (r"img_backbone\.stem\.stem_2/(.+)", r"backbone.stem.1.\1"),
    (r"img_backbone\.stem\.stem_3/(.+)", r"backbone.stem.2.\1"),
    *(
        (
            rf"img_backbone\.stage{stage}\.OSA{stage}_{block}\.{theirs}",
            rf"backbone.stages.{stage - 2}.{block - 1}.{ours}",
        )
        for stage in range(2, 6)
        for block in range(1, 10)
        for theirs, ours in (
            (r"layers\.(\d)\.[^/]+/(.+)", r"layers.\1.\2"),
            (r"concat\.[^/]+/(.+)", r"join.\1"),
            (r"ese\.(.+)", r"gate.\1"),
        )
    ),
    (r"img_backbone\.((?:conv1|bn1|layer\d)\..+)", r"backbone.\1"),
)
HEAD_RULES: Rules = (
    (r"pts_bbox_head\.code_weights", None),  # weights of the loss: settings, not learned
    (_LAYER + r"attentions\.0\.attn\.(.+)", r"decoder.\1.self_attention.\2"),
    (_LAYER + r"norms\.0\.(.+)", r"decoder.\1.self_norm.\2"),
    (_LAYER + r"norms\.1\.(.+)", r"decoder.\1.cross_norm.\2"),
    (_LAYER + r"norms\.2\.(.+)", r"decoder.\1.feed_forward_norm.\2"),
    (_LAYER + r"ffns\.0\.layers\.0\.0\.(.+)", r"decoder.\1.feed_forward.0.\2"),
    (_LAYER + r"ffns\.0\.layers\.1\.(.+)", r"decoder.\1.feed_forward.3.\2"),
)
DETR3D_HEAD_RULES: Rules = (
    (_LAYER + r"attentions\.1\.attention_weights\.(.+)", r"decoder.\1.cross_attention.weights.\2"),
    (_LAYER + r"attentions\.1\.output_proj\.(.+)", r"decoder.\1.cross_attention.output.\2"),
    (_LAYER + r"attentions\.1\.position_encoder\.(.+)", r"decoder.\1.cross_attention.position.\2"),
    (r"pts_bbox_head\.transformer\.reference_points\.(.+)", r"queries.to_reference.\1"),
    (r"pts_bbox_head\.query_embedding\.weight", "queries.embedding.weight"),
    (r"pts_bbox_head\.cls_branches\.(.+)", r"class_heads.\1"),
    (r"pts_bbox_head\.reg_branches\.(.+)", r"box_heads.\1"),
)
