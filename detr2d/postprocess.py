"""From predictions to final detections."""

from __future__ import annotations

from detr2d.boxes import BoxCodec
from detr2d.structures import Detections, Predictions, at_least_float32


def top_detections(predictions: Predictions, codec: BoxCodec, count: int) -> list[Detections]:
    """The ``count`` best (query, class) pairs of the last layer by sigmoid score, no suppression.

    One query can appear under several classes (Deformable DETR and DETR3D, released code).
    """
    scores = at_least_float32(predictions.logits[-1]).sigmoid()  # (B, Q, K)
    num_classes = scores.shape[-1]
    best, index = scores.flatten(1).topk(min(count, scores[0].numel()), dim=1)
    queries = index // num_classes
    boxes = codec.decode(at_least_float32(predictions.codes[-1]))
    return [
        Detections(
            best[image], index[image] % num_classes, boxes[image][queries[image]], queries[image]
        )
        for image in range(len(scores))
    ]
