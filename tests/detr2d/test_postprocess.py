from __future__ import annotations

import torch

from det3d.boxes import MetricBox3D
from detr2d.boxes import NormalizedBox2D
from detr2d.postprocess import softmax_detections, top_detections
from detr2d.structures import Predictions
from tests.helpers.rigs import random_boxes


def test_best_pairs_come_first_with_their_boxes_and_queries() -> None:
    codec, boxes = MetricBox3D(), random_boxes(3)
    logits = torch.full((2, 1, 3, 2), -5.0)
    logits[-1, 0, 2, 1], logits[-1, 0, 0, 0], logits[-1, 0, 2, 0] = 3.0, 2.0, 1.0
    codes = codec.encode(boxes).expand(2, 1, 3, 10)
    (found,) = top_detections(Predictions(logits, codes), codec, 3)
    assert found.labels.tolist() == [1, 0, 0]
    assert found.queries.tolist() == [2, 0, 2]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    torch.testing.assert_close(found.boxes, boxes[[2, 0, 2]], atol=1e-5, rtol=1e-5)


def test_never_more_than_there_are_pairs() -> None:
    predictions = Predictions(torch.randn(1, 2, 3, 2), torch.randn(1, 2, 3, 10))
    assert [len(d) for d in top_detections(predictions, MetricBox3D(), 100)] == [6, 6]


def test_softmax_keeps_every_query_once_and_ignores_no_object() -> None:
    logits = torch.log(torch.tensor([[[[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.4, 0.4]]]]))
    boxes = torch.rand(1, 1, 3, 4)
    (found,) = softmax_detections(Predictions(logits, boxes), NormalizedBox2D())
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.4, 0.2]))
    assert found.labels.tolist() == [0, 1, 1] and found.queries.tolist() == [1, 2, 0]
    assert torch.equal(found.boxes, boxes[0, 0, [1, 2, 0]])
