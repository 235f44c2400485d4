from __future__ import annotations

import torch

from detr2d.explain import Explanation, draw_image_explanation, heat_map, reference_pixels
from detr2d.looks import Looks, dense_looks
from detr2d.structures import Detections, Predictions


def detection(query: int = 1) -> Detections:
    boxes, zero = torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.zeros(1, dtype=torch.int64)
    masks = torch.ones(1, 4, 5, dtype=torch.bool)  # of another size than the picture
    return Detections(torch.ones(1), zero, boxes, torch.tensor([query]), masks)


def explanation(looks: Looks, references: torch.Tensor | None) -> Explanation:
    predictions = Predictions(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 4), references)
    return Explanation(detection(), (looks,), predictions)


def test_a_query_that_looks_everywhere_alike_leaves_the_image_as_it_is() -> None:
    looks = dense_looks(torch.full((1, 1, 12), 1 / 12), (3, 4))
    assert float(heat_map(looks, 0, (30, 40)).max()) < 0.01


def test_heat_is_one_at_the_largest_weight_of_all_views_and_zero_up_to_the_mean() -> None:
    weights = torch.tensor([[[0.1, 0.1, 0.1, 0.1, 0.2, 0.4]]])
    looks = dense_looks(weights, (2, 1, 3))  # two views of three cells
    assert heat_map(looks, 0, (1, 3)).tolist() == [[0, 0, 0]]
    torch.testing.assert_close(
        heat_map(looks, 1, (1, 3)), torch.tensor([[0.0, (0.2 - 1 / 6) / (0.4 - 1 / 6), 1.0]])
    )


def test_references_are_pixels_of_the_image_in_the_order_of_the_layers() -> None:
    references = torch.zeros(2, 1, 2, 2)
    references[:, 0, 1] = torch.tensor([[0.5, 0.25], [0.75, 1.0]])
    looks = Looks(torch.full((1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1))
    assert reference_pixels(explanation(looks, references), (40, 100)) == [[50, 10], [75, 40]]
    assert reference_pixels(explanation(looks, None), (40, 100)) == []


def test_dots_stand_where_the_looks_are_on_the_canvas() -> None:
    """The canvas is twice as large as the image, so its middle is the image's corner."""
    image = torch.zeros(3, 280, 560, dtype=torch.uint8)
    looks = Looks(torch.tensor([0.25, 0.25]).view(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1))
    found = explanation(looks, torch.full((2, 1, 2, 2), 0.9))
    panel = draw_image_explanation(image, found, ("a",), (560, 1120))
    assert panel.shape == (3, 280, 560)
    assert panel[:, 140, 280].tolist() == [255, 250, 190]  # the brightest heat
    assert panel[:, 252, 504].tolist() == [255, 255, 255]  # the cross at the reference
