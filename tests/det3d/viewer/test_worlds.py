"""The page of a toy world's and of the real frame's results, in a real browser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from det3d.data.toy_world import make_toy_nuscenes
from det3d.results.convert import convert
from det3d.results.format import Frame, Objects, Results, read_results, write_results
from tests.det3d.viewer.test_page import (
    REAL_FRAME,
    centre,
    count,
    largest_difference,
    open_page,
    set_control,
)
from tests.helpers.browser import Browser

VIEWS = 7  # six cameras and the view from above


def toy_results(folder: Path) -> Path:
    """A result file of three frames of a toy world, as the demo's."""
    root = make_toy_nuscenes(
        folder / "world",
        image_size=(96, 168),
        frames_per_scene=3,
        scenes_per_split=(0, 1),
        workers=0,
        coco=False,
        progress=False,
    )
    return results_of(root, "mini_val", folder)


def real_results(folder: Path) -> Path:
    """A result file of the real key frame."""
    if not REAL_FRAME.exists():
        pytest.skip("the real frame is absent")
    return results_of(REAL_FRAME, None, folder)


def results_of(root: Path, select: str | None, folder: Path) -> Path:
    """A database's ground truth, and detections made of it: moved, some left out, some false."""
    path = folder / "results.json"
    convert(None, path, root=root, version="v1.0-mini", select=select, index_dir=folder)
    results = read_results(path)
    write_results(path, replace(results, frames=tuple(map(with_detections, results.frames))))
    return path


def with_detections(frame: Frame) -> Frame:
    truth, random = frame.ground_truth, np.random.default_rng(0)
    assert truth is not None
    kept = np.flatnonzero(np.arange(len(truth)) % 4 != 3)
    boxes = np.nan_to_num(truth.boxes[np.concatenate([kept, kept[:5]])])
    boxes[:, :2] += random.normal(0, 0.3, (len(boxes), 2))
    boxes[len(kept) :, 0] += 9
    labels = np.concatenate([truth.labels[kept], truth.labels[kept[:5]]])
    scores = np.linspace(0.98, 0.06, len(boxes)).round(3)
    return replace(frame, detections=Objects(boxes, labels, scores))


@dataclass(frozen=True)
class Shown:
    """A page that is open in the browser, and what it was made of."""

    browser: Browser
    results: Results


@pytest.fixture(
    scope="module",
    params=[pytest.param("toy"), pytest.param("real", marks=pytest.mark.real)],
)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    write = toy_results if request.param == "toy" else real_results
    return write(tmp_path_factory.mktemp(request.param))


@pytest.fixture
def shown(browser: Browser, path: Path) -> Shown:
    return Shown(browser, open_page(browser, path))


def views_with(browser: Browser, selector: str) -> int:
    """In how many of the seven views an element is drawn."""
    return browser.run(
        "return [...document.querySelectorAll('figure, #above')]"
        ".filter((view) => view.querySelector(arguments[0])).length",
        selector,
    )


def test_the_scene_loads_without_asking_the_network(shown: Shown) -> None:
    page = shown.browser
    assert page.complaints() == []
    assert [url for url in page.requests() if url.startswith(("http", "ws", "ftp"))] == []
    assert count(page, "figure img") == 6
    assert page.run("return [...document.images].every((i) => i.complete && i.naturalWidth)")


def test_the_score_slider_shows_as_many_boxes_as_pass(shown: Shown) -> None:
    scores = shown.results.frames[0].detections.scores
    for threshold in (0.06, 0.5, 0.9):
        set_control(shown.browser, "score", threshold)
        assert count(shown.browser, "#above .detection") == int((scores >= threshold).sum()) > 0


def test_a_class_that_is_switched_off_leaves_all_seven_views(shown: Shown) -> None:
    page, found = shown.browser, shown.results.frames[0].detections
    set_control(page, "score", 0.05)
    label = int(np.bincount(found.labels).argmax())
    of_class = ", ".join(
        f".detection[data-index='{index}']" for index in np.flatnonzero(found.labels == label)
    )
    before = views_with(page, of_class)
    page.run(f"document.querySelector(\"[data-label='{label}']\").click()")
    assert before >= 2
    assert views_with(page, of_class) == 0
    page.run(f"document.querySelector(\"[data-label='{label}']\").click()")
    assert views_with(page, of_class) == before <= VIEWS


def test_a_click_selects_the_box_in_every_view_that_shows_it(shown: Shown) -> None:
    page = shown.browser
    page.click(*centre(page, "#above .detection[data-index='0'] .hit"))
    index = page.run("return document.querySelector('#above .selected').dataset.index")
    key = f"[data-index='{index}']"
    kind = page.run("return document.querySelector('#above .selected').dataset.kind")
    assert views_with(page, f".{kind}.selected{key}") == views_with(page, f".{kind}{key}") >= 2
    assert views_with(page, f".{kind}.selected:not({key})") == 0
    assert page.run("return document.querySelectorAll('#details tr').length") >= 7


def test_playing_advances(shown: Shown) -> None:
    page = shown.browser
    if len(shown.results.frames) < 2:
        assert page.run("return document.querySelector('footer').hidden")
        return
    page.press(" ")
    page.wait("Number(document.documentElement.dataset.frame) > 0")
    page.press(" ")


def test_corners_are_within_a_pixel_of_the_rig(shown: Shown) -> None:
    set_control(shown.browser, "score", 0)
    worst, compared = largest_difference(shown.browser, shown.results.frames[0])
    assert compared > 50
    assert worst < 0.01
