"""Hugging Face's DETR and Deformable DETR (transformers, timm backbone) with our weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detr2d.benchmark.subjects import DetectionSubject
from detr2d.checkpoints.deformable_detr import attention_rules, box_head_rules
from detr2d.checkpoints.rename import Table


def _layer_rules(kind: str, ours: str) -> tuple[tuple[str, str | None], ...]:
    """Rules of one kind of layer; queries, keys and values are thirds of one matrix of ours."""
    layer, thirds = rf"model\.{kind}\.layers\.(\d+)\.", {"q": 0, "k": 1, "v": 2}
    places = {"self_attn": "self_attention", "encoder_attn": "cross_attention.attention"}
    attention: list[tuple[str, str | None]] = [
        (rf"{layer}{theirs}\.{letter}_proj\.(\w+)", rf"{ours}\1.{place}.in_proj_\2@{third}")
        for theirs, place in places.items()
        for letter, third in thirds.items()
    ]
    return (
        *attention,
        *((rf"{layer}{t}\.o_proj\.(\w+)", rf"{ours}\1.{o}.out_proj.\2") for t, o in places.items()),
        (rf"{layer}self_attn_layer_norm\.(\w+)", rf"{ours}\1.self_norm.\2"),
        (rf"{layer}encoder_attn_layer_norm\.(\w+)", rf"{ours}\1.cross_norm.\2"),
        (rf"{layer}mlp\.fc1\.(\w+)", rf"{ours}\1.feed_forward.0.\2"),
        (rf"{layer}mlp\.fc2\.(\w+)", rf"{ours}\1.feed_forward.3.\2"),
        (rf"{layer}final_layer_norm\.(\w+)", rf"{ours}\1.feed_forward_norm.\2"),
    )


TABLE = Table(
    rules=(
        (r"model\.backbone\.model\.(.+)", r"backbone.\1"),
        (r"model\.input_projection\.(\w+)", r"projection.\1"),
        (r"model\.query_position_embeddings\.weight", "transformer.queries.weight"),
        *_layer_rules("encoder", "transformer.encoder.layers."),
        *_layer_rules("decoder", "transformer.decoder."),
        (r"model\.decoder\.layernorm\.(\w+)", r"transformer.decoder_norm.\1"),
        (r"class_labels_classifier\.(\w+)", r"class_head.\1"),
        (r"bbox_predictor\.layers\.0\.(\w+)", r"box_head.0.\1"),
        (r"bbox_predictor\.layers\.1\.(\w+)", r"box_head.2.\1"),
        (r"bbox_predictor\.layers\.2\.(\w+)", r"box_head.4.\1"),
    )
)


DEFORMABLE_TABLE = Table(
    rules=(
        (r"model\.backbone\.model\.(.+)", r"backbone.\1"),
        (r"model\.input_proj\.(.+)", r"neck.projections.\1"),
        (r"model\.level_embed", "tokens.level_embedding"),
        (r"model\.query_position_embeddings\.weight", "queries.learned.embedding.weight"),
        (r"model\.reference_points\.(\w+)", r"queries.learned.to_reference.\1"),
        *attention_rules(
            r"model\.encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.self_attention."
        ),
        *attention_rules(
            r"model\.decoder\.layers\.(\d+)\.encoder_attn\.", r"decoder.\1.cross_attention."
        ),
        *_layer_rules("encoder", "encoder.layers."),
        *_layer_rules("decoder", "decoder."),
        (r"(?:model\.decoder\.)?class_embed\.\d+\.(?P<kind>\w+)", r"class_heads.0.\g<kind>"),
        *box_head_rules(r"(?:model\.decoder\.)?bbox_embed\.\d+\.", "box_heads.0."),
    )
)


def build_hugging_face_detr(subject: DetectionSubject, **settings: Any) -> nn.Module:
    """DETR-R50 as transformers builds it by default, with the subject's weights.

    ``settings`` go to its config. Raises ImportError without ``.[bench]``.
    """
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(num_labels=len(subject.classes), use_pretrained_backbone=False, **settings)
    return _fill(DetrForObjectDetection(config), subject, TABLE)


def build_hugging_face_deformable(subject: DetectionSubject, **settings: Any) -> nn.Module:
    """The same for Deformable DETR with four levels, single-stage, without refinement."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    config = DeformableDetrConfig(
        num_labels=len(subject.classes), use_pretrained_backbone=False, class_cost=2, **settings
    )
    return _fill(DeformableDetrForObjectDetection(config), subject, DEFORMABLE_TABLE)


def _fill(peer: nn.Module, subject: DetectionSubject, table: Table) -> nn.Module:
    """The peer with the subject's weights.

    What ours trains is trained, nothing else: transformers freezes other parts depending on the
    kind of backbone.
    """
    peer.load_state_dict({name: subject.official_weight(name, table) for name in peer.state_dict()})
    frozen = ("model.backbone.model.conv1", "model.backbone.model.layer1")
    for name, parameter in peer.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    return peer.to(subject.device, torch.float32)
