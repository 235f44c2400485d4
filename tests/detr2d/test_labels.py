from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageDraw

from detr2d.labels import Label, place_labels, text_size, write_labels
from detr2d.structures import Detections
from detr2d.visualize import draw_detections

HEIGHT, WIDTH = 200, 320
BLUE = (0, 0, 255)


def shared_areas(spots: np.ndarray) -> np.ndarray:
    """Square pixels that each rectangle shares with each other one."""
    low = np.maximum(spots[:, None, :2], spots[None, :, :2])
    high = np.minimum(spots[:, None, 2:], spots[None, :, 2:])
    return (high - low).clip(0).prod(-1)[~np.eye(len(spots), dtype=bool)]


def crowd(count: int, seed: int) -> list[Label]:
    """Labels of objects anywhere, also beyond the border."""
    random = np.random.default_rng(seed)
    corners = random.uniform(-5, 300, (count, 2))
    areas = np.concatenate([corners, corners + random.uniform(5, 80, (count, 2))], 1)
    return [Label("pedestrian 0.50", tuple(area), (0, 0, 0), align=seed % 2) for area in areas]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_labels_stay_in_the_picture_and_off_each_other(seed: int, count: int) -> None:
    title = (5.0, 5.0, 80.0, 22.0)
    placed = place_labels(crowd(count, seed), HEIGHT, WIDTH, 11, [title])
    spots = np.array([spot for _, spot in placed] + [title])
    assert len(spots) > 0
    assert (spots[:, :2] >= 0).all()
    assert (spots[:, 2] <= WIDTH).all()
    assert (spots[:, 3] <= HEIGHT).all()
    assert shared_areas(spots).max(initial=0) == 0


def test_where_there_is_no_room_the_later_labels_are_left_out() -> None:
    area = (100.0, 90.0, 140.0, 110.0)
    labels = [Label(f"car 0.{99 - i}", area, (0, 0, 0)) for i in range(50)]
    written = [label for label, _ in place_labels(labels, HEIGHT, WIDTH, 11)]
    assert 5 < len(written) < 50
    assert written == labels[: len(written)]


@pytest.mark.parametrize("align", [0, 0.5, 1])
def test_a_label_stands_along_its_object_as_asked(align: float) -> None:
    label = Label("car", (100, 90, 200, 110), BLUE, align=align)
    ((_, spot),) = place_labels([label], HEIGHT, WIDTH, 11)
    width = text_size("car", 11)[0] + 6
    assert spot[0] == pytest.approx(100 + align * (100 - width))
    assert spot[3] == 89


def test_fifty_detections_of_an_image_have_names_that_do_not_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plates: list[tuple[float, ...]] = []
    draw_plate = ImageDraw.ImageDraw.rounded_rectangle

    def note(draw: ImageDraw.ImageDraw, spot: tuple[float, ...], *rest: object, **more: object):
        plates.append(tuple(spot))
        draw_plate(draw, spot, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "rounded_rectangle", note)
    torch.manual_seed(0)
    boxes = torch.cat([torch.rand(50, 2), 0.05 + 0.2 * torch.rand(50, 2)], dim=1)
    scores, labels = torch.linspace(0.9, 0.3, 50), torch.randint(0, 2, (50,))
    found = Detections(scores, labels, boxes, torch.arange(50))
    image = torch.full((3, 480, 640), 100, dtype=torch.uint8)
    draw_detections(image, found, ("pedestrian", "traffic cone"))
    assert 40 <= len(plates) <= 50
    assert shared_areas(np.array(plates)).max() == 0


def test_labels_are_written_on_plates_of_their_colour() -> None:
    picture = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    written = write_labels(picture, [Label("car", (100, 90, 200, 110), BLUE)], 11).copy()
    ((_, spot),) = place_labels([Label("car", (100, 90, 200, 110), BLUE)], HEIGHT, WIDTH, 11)
    left, top, right, bottom = map(round, spot)
    plate = written[top + 2 : bottom - 2, left + 1 : right - 1].astype(float)
    assert plate[..., 2].mean() > 150 > plate[..., 0].mean()
    written[top - 1 : bottom + 2, left - 1 : right + 2] = 100
    assert (written == 100).all()
