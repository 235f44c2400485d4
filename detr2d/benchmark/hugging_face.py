"""Hugging Face's DETR (transformers, with a timm backbone) as a peer, with our weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from detr2d.benchmark.subjects import DetectionSubject
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


def build_hugging_face_detr(subject: DetectionSubject, **settings: Any) -> nn.Module:
    """DETR-R50 as transformers builds it by default, with the subject's weights.

    ``settings`` go to its config. What ours trains is trained, nothing else: transformers freezes
    other parts depending on the kind of backbone. Raises ImportError without ``.[bench]``.
    """
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(num_labels=len(subject.classes), use_pretrained_backbone=False, **settings)
    peer = DetrForObjectDetection(config)
    filled = {name: subject.official_weight(name, TABLE) for name in peer.state_dict()}
    peer.load_state_dict(filled)
    frozen = ("model.backbone.model.conv1", "model.backbone.model.layer1")
    for name, parameter in peer.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    return peer.to(subject.device, torch.float32)
