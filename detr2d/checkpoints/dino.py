"""Names in DINO's official checkpoints (``checkpoint0011_4scale.pth`` and its siblings)."""

from __future__ import annotations

from detr2d.checkpoints.deformable_detr import COUNTERS, TRANSFORMER_RULES, box_head_rules
from detr2d.checkpoints.rename import Table

_INNER = r"(transformer\.decoder\.)?"

DINO_TABLE = Table(
    rules=(
        COUNTERS,
        (r"backbone\.0\..+\.relative_position_index", None),  # computed, not learned
        (r"backbone\.0\.((?:patch_embed|layers|norm\d)\..+)", r"backbone.\1"),
        *TRANSFORMER_RULES,
        (r"transformer\.tgt_embed\.weight", "queries.content.weight"),
        (r"transformer\.enc_out_class_embed\.(.+)", r"queries.proposals.class_head.\1"),
        *box_head_rules(r"transformer\.enc_out_bbox_embed\.", "queries.proposals.box_head."),
        (r"transformer\.decoder\.norm\.(.+)", r"decoder_norm.\1"),
        (r"transformer\.decoder\.ref_point_head\.layers\.0\.(.+)", r"positions.embed.0.\1"),
        (r"transformer\.decoder\.ref_point_head\.layers\.1\.(.+)", r"positions.embed.2.\1"),
        (r"label_enc\.weight", "denoising.labels.weight"),
        (_INNER + r"class_embed\.\d+\.(.+)", r"class_head.\2"),
        *box_head_rules(_INNER + r"bbox_embed\.\d+\.", "box_head."),
    )
)
