"""Names in DETR's official checkpoints (``detr-r50-e632da11.pth`` and its siblings) and ours."""

from __future__ import annotations

from detr2d.checkpoints.rename import Table

_ENCODER = r"transformer\.encoder\.layers\.(\d+)\."
_DECODER = r"transformer\.decoder\.layers\.(\d+)\."
_OUR_ENCODER = r"transformer.encoder.layers.\1."
_OUR_DECODER = r"transformer.decoder.\1."

DETR_TABLE = Table(
    rules=(
        (r"backbone\.0\.body\.(.+)", r"backbone.\1"),
        (r"backbone\.1\.row_embed\.weight", "positions.rows.weight"),
        (r"backbone\.1\.col_embed\.weight", "positions.columns.weight"),
        (r"input_proj\.(.+)", r"projection.\1"),
        (_ENCODER + r"self_attn\.(.+)", _OUR_ENCODER + r"self_attention.\2"),
        (_ENCODER + r"norm1\.(.+)", _OUR_ENCODER + r"self_norm.\2"),
        (_ENCODER + r"linear1\.(.+)", _OUR_ENCODER + r"feed_forward.0.\2"),
        (_ENCODER + r"linear2\.(.+)", _OUR_ENCODER + r"feed_forward.3.\2"),
        (_ENCODER + r"norm2\.(.+)", _OUR_ENCODER + r"feed_forward_norm.\2"),
        (r"transformer\.encoder\.norm\.(.+)", r"transformer.encoder.norm.\1"),
        (r"query_embed\.weight", "transformer.queries.weight"),
        (_DECODER + r"self_attn\.(.+)", _OUR_DECODER + r"self_attention.\2"),
        (_DECODER + r"norm1\.(.+)", _OUR_DECODER + r"self_norm.\2"),
        (_DECODER + r"multihead_attn\.(.+)", _OUR_DECODER + r"cross_attention.attention.\2"),
        (_DECODER + r"norm2\.(.+)", _OUR_DECODER + r"cross_norm.\2"),
        (_DECODER + r"linear1\.(.+)", _OUR_DECODER + r"feed_forward.0.\2"),
        (_DECODER + r"linear2\.(.+)", _OUR_DECODER + r"feed_forward.3.\2"),
        (_DECODER + r"norm3\.(.+)", _OUR_DECODER + r"feed_forward_norm.\2"),
        (r"transformer\.decoder\.norm\.(.+)", r"transformer.decoder_norm.\1"),
        (r"class_embed\.(.+)", r"class_head.\1"),
        (r"bbox_embed\.layers\.0\.(.+)", r"box_head.0.\1"),
        (r"bbox_embed\.layers\.1\.(.+)", r"box_head.2.\1"),
        (r"bbox_embed\.layers\.2\.(.+)", r"box_head.4.\1"),
    )
)

PANOPTIC_TABLE = Table(
    rules=(
        *DETR_TABLE.prefixed("detr.").rules,
        (r"bbox_attention\.q_linear\.(.+)", r"attention_maps.query.\1"),
        (r"bbox_attention\.k_linear\.(.+)", r"attention_maps.key.\1"),
        (r"mask_head\.lay1\.(.+)", r"mask_head.first.\1"),
        (r"mask_head\.lay2\.(.+)", r"mask_head.convs.0.\1"),
        (r"mask_head\.lay3\.(.+)", r"mask_head.convs.1.\1"),
        (r"mask_head\.lay4\.(.+)", r"mask_head.convs.2.\1"),
        (r"mask_head\.lay5\.(.+)", r"mask_head.convs.3.\1"),
        (r"mask_head\.gn1\.(.+)", r"mask_head.norms.0.\1"),
        (r"mask_head\.gn2\.(.+)", r"mask_head.norms.1.\1"),
        (r"mask_head\.gn3\.(.+)", r"mask_head.norms.2.\1"),
        (r"mask_head\.gn4\.(.+)", r"mask_head.norms.3.\1"),
        (r"mask_head\.gn5\.(.+)", r"mask_head.norms.4.\1"),
        (r"mask_head\.adapter1\.(.+)", r"mask_head.adapters.0.\1"),
        (r"mask_head\.adapter2\.(.+)", r"mask_head.adapters.1.\1"),
        (r"mask_head\.adapter3\.(.+)", r"mask_head.adapters.2.\1"),
        (r"mask_head\.out_lay\.(.+)", r"mask_head.to_mask.\1"),
    )
)
