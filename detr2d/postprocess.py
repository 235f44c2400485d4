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


def softmax_detections(predictions: Predictions, codec: BoxCodec) -> list[Detections]:
    """Every query of the last layer with its best class, the last logit ("no object") left out.

    All Q queries are kept, however low their score (DETR, section 4: AP wants them).
    """
    scores, labels = at_least_float32(predictions.logits[-1]).softmax(-1)[..., :-1].max(-1)
    best, queries = scores.sort(dim=1, descending=True, stable=True)
    boxes = codec.decode(at_least_float32(predictions.codes[-1]))
    return [
        Detections(best[image], labels[image][order], boxes[image][order], order)
        for image, order in enumerate(queries)
    ]
