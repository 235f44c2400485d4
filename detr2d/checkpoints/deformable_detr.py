"""Names in Deformable DETR's official checkpoints (``r50_deformable_detr-checkpoint.pth`` ...)."""

from __future__ import annotations

from detr2d.checkpoints.rename import Table

_ENCODER = r"transformer\.encoder\.layers\.(\d+)\."
_DECODER = r"transformer\.decoder\.layers\.(\d+)\."
_OUR_ENCODER = r"encoder.layers.\1."
_OUR_DECODER = r"decoder.\1."


def attention_rules(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rules for one deformable attention; ``theirs`` is a pattern with one group."""
    names = {
        "sampling_offsets": "offsets",
        "attention_weights": "weights",
        "value_proj": "value",
        "output_proj": "output",
    }
    return tuple((rf"{theirs}{old}\.(.+)", rf"{ours}{new}.\2") for old, new in names.items())


def box_head_rules(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rules for a box head of three linear layers."""
    return tuple(
        (rf"{theirs}layers\.{layer}\.(?P<kind>weight|bias)", rf"{ours}{2 * layer}.\g<kind>")
        for layer in range(3)
    )


TRANSFORMER_RULES = (
    (r"backbone\.0\.body\.(.+)", r"backbone.\1"),
    (r"input_proj\.(.+)", r"neck.projections.\1"),
    (r"transformer\.level_embed", "tokens.level_embedding"),
    *attention_rules(_ENCODER + r"self_attn\.", _OUR_ENCODER + "self_attention."),
    (_ENCODER + r"norm1\.(.+)", _OUR_ENCODER + r"self_norm.\2"),
    (_ENCODER + r"linear1\.(.+)", _OUR_ENCODER + r"feed_forward.0.\2"),
    (_ENCODER + r"linear2\.(.+)", _OUR_ENCODER + r"feed_forward.3.\2"),
    (_ENCODER + r"norm2\.(.+)", _OUR_ENCODER + r"feed_forward_norm.\2"),
    (_DECODER + r"self_attn\.(.+)", _OUR_DECODER + r"self_attention.\2"),
    (_DECODER + r"norm2\.(.+)", _OUR_DECODER + r"self_norm.\2"),
    *attention_rules(_DECODER + r"cross_attn\.", _OUR_DECODER + "cross_attention."),
    (_DECODER + r"norm1\.(.+)", _OUR_DECODER + r"cross_norm.\2"),
    (_DECODER + r"linear1\.(.+)", _OUR_DECODER + r"feed_forward.0.\2"),
    (_DECODER + r"linear2\.(.+)", _OUR_DECODER + r"feed_forward.3.\2"),
    (_DECODER + r"norm3\.(.+)", _OUR_DECODER + r"feed_forward_norm.\2"),
    (r"transformer\.enc_output\.(.+)", r"queries.proposals.transform.\1"),
    (r"transformer\.enc_output_norm\.(.+)", r"queries.proposals.norm.\1"),
)
"""What Deformable DETR and DINO name alike. The decoder's norm1 follows the cross-attention."""

COUNTERS = (r"(.+\.)?total_(params|ops)", None)
"""Leftovers of a profiler in some of the published files."""


def deformable_detr_table(*, decoder_layers: int, separate_heads: bool) -> Table:
    """The table; with ``separate_heads`` each decoder layer has heads of its own.

    Then the heads after the last layer's are those of proposals. All official names of shared
    heads lead to one name of ours, so that their values are compared.
    """
    place = r"\g<layer>" if separate_heads else "0"
    inner = r"(transformer\.decoder\.)?"
    last = rf"{inner}class_embed\.{decoder_layers}\."
    last_box = rf"{inner}bbox_embed\.{decoder_layers}\."
    return Table(
        rules=(
            COUNTERS,
            *TRANSFORMER_RULES,
            (r"query_embed\.weight", "queries.learned.embedding.weight"),
            (r"transformer\.reference_points\.(.+)", r"queries.learned.to_reference.\1"),
            (r"transformer\.pos_trans\.(.+)", r"queries.embed.\1"),
            (r"transformer\.pos_trans_norm\.(.+)", r"queries.norm.\1"),
            (last + r"(?P<kind>.+)", r"queries.proposals.class_head.\g<kind>"),
            *box_head_rules(last_box, "queries.proposals.box_head."),
            (
                rf"{inner}class_embed\.(?P<layer>\d+)\.(?P<kind>.+)",
                rf"class_heads.{place}.\g<kind>",
            ),
            *box_head_rules(rf"{inner}bbox_embed\.(?P<layer>\d+)\.", f"box_heads.{place}."),
        )
    )
