"""What the page does in a real browser; the tests skip where there is none."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from det3d.boxes import box_corners
from det3d.cameras import CameraRig
from det3d.results.format import Frame, Results, read_results
from det3d.results.matching import match_frame
from det3d.viewer.page import PageStyle, choose_frames, write_page
from tests.helpers.browser import Browser
from tests.helpers.result_frames import (
    CLASSES,
    car,
    make_frame,
    make_objects,
    write_result_file,
)

ROOT = Path(__file__).resolve().parents[3]
REAL_FRAME = ROOT / "../shared/real/nuscenes_frame"
READY = "document.documentElement.dataset.ready"
COUNT = "return document.querySelectorAll({selector!r}).length"
BOXES = (car(10, 0.5), car(-3, 12, 2.0), car(30, 30), car(8, -9), car(-12, -3, 1.0))


def three_frames() -> tuple[Frame, ...]:
    found = make_objects(*BOXES, labels=[0, 0, 1, 1, 0], scores=[0.9, 0.6, 0.5, 0.4, 0.2])
    truth = make_objects(car(10, 0), car(0, -8, 1.0), car(-3, 11, 2.1))
    tracked = replace(found, tracks=("a", "b", "c", "d", "e"))
    return tuple(
        make_frame(f"frame{i}", time=0.5 * i, detections=tracked, ground_truth=truth)
        for i in range(3)
    )


def open_page(browser: Browser, path: Path, **style: object) -> Results:
    results = read_results(path)
    write_page(results, path.with_suffix(".html"), PageStyle(**style))  # type: ignore[arg-type]
    browser.open(path.with_suffix(".html"))
    browser.wait(READY)
    return results


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Browser:
    open_page(browser, write_result_file(tmp_path, *three_frames()))
    return browser


def count(browser: Browser, selector: str) -> int:
    return browser.run(COUNT.format(selector=selector))


def set_control(browser: Browser, name: str, value: object, event: str = "input") -> None:
    browser.run(
        "const control = document.getElementById(arguments[0]); control.value = arguments[1];"
        "control.dispatchEvent(new Event(arguments[2], {bubbles: true}))",
        name, str(value), event,
    )  # fmt: skip


def centre(browser: Browser, selector: str) -> tuple[float, float]:
    """Where an element is in the window."""
    x, y, width, height = browser.run(
        "const r = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [r.x, r.y, r.width, r.height]", selector,
    )  # fmt: skip
    return x + width / 2, y + height / 2


def test_the_page_opens_without_asking_the_network(page: Browser) -> None:
    assert page.complaints() == []
    # Not the browser's own start page (chrome://), whose parts may still be on their way.
    assert [url for url in page.requests() if url.startswith(("http", "ws", "ftp"))] == []
    assert count(page, "figure img") == 6
    assert page.run("return [...document.images].every((i) => i.complete && i.naturalWidth)")


def test_the_score_slider_changes_the_number_of_boxes(page: Browser) -> None:
    counts = []
    for score in (0, 0.45, 0.95):
        set_control(page, "score", score)
        counts.append(count(page, "#above .detection"))
    assert counts == [5, 3, 0]
    assert count(page, "#above .missed") == 3  # what the hidden detections had found


def test_the_range_slider_hides_what_is_far(page: Browser) -> None:
    set_control(page, "range", 20)
    assert count(page, "#above .detection") == 3
    assert count(page, 'figure .detection[data-index="2"]') == 0


def test_a_class_leaves_all_views(page: Browser) -> None:
    set_control(page, "score", 0)
    drawn = [count(page, f"{view} .detection[data-index='2']") for view in ("figure", "#above")]
    assert all(number > 0 for number in drawn)
    page.run("document.querySelector('[data-label=\"1\"]').click()")
    left = page.run(
        "return [...document.querySelectorAll('.object')].map((g) => g.dataset.kind +"
        " g.dataset.index)"
    )
    assert {"detection2", "detection3"}.isdisjoint(left)
    assert {"detection0", "detection1", "truth0"} <= set(left)


@pytest.mark.parametrize("view", ["#above", "figure[data-camera='camera 0']"])
def test_a_click_selects_in_all_views_and_tells_the_numbers(page: Browser, view: str) -> None:
    page.click(*centre(page, f"{view} .detection[data-index='0'] .hit"))
    assert count(page, "figure .detection.selected") >= 1
    assert count(page, "#above .detection.selected") == 1
    assert count(page, "#above .truth.selected") == 1  # the object that it found
    told = page.run("return document.getElementById('details').textContent")
    assert "true positive" in told and "0.900" in told
    assert "translation error0.50 m" in told
    page.press("\ue00c")  # escape
    assert count(page, ".selected") == 0


def test_playing_advances_and_stops(page: Browser) -> None:
    page.press(" ")
    page.wait("Number(document.documentElement.dataset.frame) > 0")
    page.press(" ")
    assert page.run("return document.getElementById('play').textContent") == "▶"


def test_a_selected_track_stays_selected_in_the_next_frame(page: Browser) -> None:
    page.press("n")
    before = page.run("return document.querySelector('#above .detection.selected').dataset.index")
    page.press("\ue014")  # right
    page.wait("document.documentElement.dataset.frame === '1'")
    after = page.run("return document.querySelector('#above .detection.selected').dataset.index")
    assert before == after


def test_keys_toggle_outcomes_and_theme(page: Browser) -> None:
    missed = count(page, "#above .missed")
    page.press("m")
    assert missed > 0 and count(page, "#above .missed") == 0
    theme = page.run("return document.documentElement.dataset.theme")
    page.press("d")
    assert page.run("return document.documentElement.dataset.theme") != theme


@pytest.fixture
def resized(page: Browser) -> Iterator[Browser]:
    """The page in a window that a test may resize."""
    yield page
    resize(page, 1280, 800)


def resize(browser: Browser, width: int, height: int) -> None:
    browser.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
    browser.wait(f"window.innerWidth === {width}")


OUTSIDE = """
const parts = [...document.querySelectorAll(arguments[0])].filter((e) => e.offsetParent !== null);
return parts.filter((e) => {
  const r = e.getBoundingClientRect();
  return r.left < -1 || r.right > innerWidth + 1 || (arguments[1] && r.bottom > innerHeight + 1);
}).map((e) => e.id || e.className || e.tagName);
"""


def test_a_laptop_shows_everything_at_once(resized: Browser) -> None:
    resize(resized, 1280, 800)
    everything = "figure, #above, input, select, button, footer, #details"
    assert resized.run(OUTSIDE, everything, True) == []
    width = resized.run("return document.querySelector('figure').clientWidth")
    assert width >= 220


def test_a_phone_scrolls_down_only_and_keeps_time_at_hand(resized: Browser) -> None:
    resize(resized, 390, 844)
    assert resized.run("return document.documentElement.scrollWidth") <= 390
    everything = "figure, #above, input, select, button, #details"
    assert resized.run(OUTSIDE, everything, False) == []
    assert resized.run(OUTSIDE, "footer, #play", True) == []
    small = resized.run(
        "return [...document.querySelectorAll('footer button, .chip')].filter((e) =>"
        " e.offsetParent !== null && e.getBoundingClientRect().height < 31).length"
    )
    assert small == 0  # room for a finger


CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((c) => (c / 255) ** 2.2);
const shares = [.2126, .7152, .0722];
const luminance = (color) => channels(color).reduce((s, c, i) => s + shares[i] * c, 0);
const style = getComputedStyle(document.body);
const [a, b] = [luminance(style.color), luminance(style.backgroundColor)];
return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_begins_as_the_system_is_set_and_reads_well(page: Browser, theme: str) -> None:
    wish = [{"name": "prefers-color-scheme", "value": theme}]
    page.devtools("Emulation.setEmulatedMedia", features=wish)
    page.run("location.reload()")
    page.wait(f"document.documentElement.dataset.theme === '{theme}' && {READY}")
    page.devtools("Emulation.setEmulatedMedia", features=[])
    assert page.run(CONTRAST) > 7


def test_the_help_lists_all_keys_and_pressing_some_complains_of_nothing(page: Browser) -> None:
    keys = page.run("return [...document.querySelectorAll('#help dt')].map((e) => e.textContent)")
    assert len(keys) == 13
    before = page.run("return document.body.innerHTML.length")
    for key in ("[", "n", "c", "l", "1", "g", "t", "f", "+", "h"):
        page.press(key)
    assert page.run("return document.body.innerHTML.length") != before
    assert page.complaints() == []


def corners_in_page(browser: Browser, camera: str, index: int) -> np.ndarray:
    """The ends of the lines that the page draws for a detection, in pixels of the image."""
    path = browser.run(
        "return document.querySelector(arguments[0])?.getAttribute('d')",
        f"figure[data-camera='{camera}'] .detection[data-index='{index}'] .edges",
    )
    numbers = re.findall(r"-?[\d.]+(?:e-?\d+)?", path or "")
    return np.array(numbers, dtype=float).reshape(-1, 2)


def torch_rig(frame: Frame) -> CameraRig:
    sizes = [[camera.height, camera.width] for camera in frame.cameras]
    count = len(frame.cameras)
    return CameraRig(
        intrinsics=torch.tensor(np.stack([c.intrinsics for c in frame.cameras])[None]),
        camera_from_ref=torch.tensor(np.stack([c.camera_from_ref for c in frame.cameras])[None]),
        image_sizes=torch.tensor(sizes, dtype=torch.float64)[None],
        present=torch.ones(1, count, dtype=torch.bool),
        timestamps=torch.zeros(1, count, dtype=torch.float64),
    )


def largest_difference(browser: Browser, frame: Frame) -> tuple[float, int]:
    """Pixels between the page's corners and ``CameraRig.project``, and how many were compared."""
    boxes = torch.tensor(frame.detections.boxes)
    projection = torch_rig(frame).project(box_corners(boxes).view(1, -1, 3))
    worst, compared = 0.0, 0
    for view, camera in enumerate(frame.cameras):
        pixels = projection.pixels[0, view].view(-1, 8, 2).numpy()
        visible = projection.visible[0, view].view(-1, 8).numpy()
        for index in np.flatnonzero(visible.any(1)).tolist():
            drawn = corners_in_page(browser, camera.name, index)
            expected = pixels[index][visible[index]]
            distance = np.linalg.norm(expected[:, None] - drawn[None], axis=-1).min(1)
            worst, compared = max(worst, float(distance.max())), compared + len(expected)
    return worst, compared


def test_corners_are_where_the_rig_projects_them(page: Browser) -> None:
    set_control(page, "score", 0)
    worst, compared = largest_difference(page, three_frames()[0])
    assert compared > 30
    assert worst < 0.01


@pytest.mark.parametrize("distance", [0.5, 1, 2, 4])
def test_outcomes_are_those_of_the_official_matching(
    browser: Browser, tmp_path: Path, distance: float
) -> None:
    random = np.random.default_rng(0)
    rows = np.array([car(0, 0)] * 150)
    rows[:, :2] = random.normal(0, 5, (150, 2))
    labels = random.integers(0, 3, 150).tolist()
    scores = np.sort(random.permutation(100) / 100)[::-1]
    frame = make_frame(
        detections=make_objects(*rows[:100].tolist(), labels=labels[:100], scores=scores),
        ground_truth=make_objects(*rows[100:].tolist(), labels=labels[100:]),
    )
    results = open_page(browser, write_result_file(tmp_path, frame), score=0.0, min_score=0.0)
    set_control(browser, "distance", f"{distance:g}", "change")
    found = match_frame(results.frames[0], CLASSES, distance)
    assert count(browser, "#above .found") == int((found.truth >= 0).sum()) > 1
    assert count(browser, "#above .missed") == int(
        (found.judged_truth & (found.detection < 0)).sum()
    )
    assert count(browser, "#above .detection") == 100


def test_a_frame_without_one_camera_leaves_its_place_empty(
    browser: Browser, tmp_path: Path
) -> None:
    first, second, _ = three_frames()
    path = write_result_file(tmp_path, first, replace(second, cameras=first.cameras[:4]))
    open_page(browser, path)
    browser.press("\ue014")
    browser.wait("document.documentElement.dataset.frame === '1'")
    assert count(browser, "figure img") == 4


def test_ground_truth_alone_is_coloured_by_class(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, write_result_file(tmp_path, make_frame(detections=None)))
    assert count(browser, "#above .truth.alone") == 3
    assert browser.run("return document.querySelector('.compare').hidden")


# --- without a browser ------------------------------------------------------------------------


def test_text_in_the_data_cannot_end_its_element(tmp_path: Path) -> None:
    path = write_result_file(tmp_path, make_frame("</script><b>"))
    write_page(read_results(path), tmp_path / "page.html", PageStyle(title="a <b> & c"))
    page = (tmp_path / "page.html").read_text()
    assert "</script><b>" not in page
    assert "<title>a &lt;b&gt; &amp; c</title>" in page


def test_large_images_are_reduced_and_lidar_is_embedded(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(0, 20, (5000, 5)).astype(np.float32)
    frame = make_frame(lidar="points.bin")
    path = write_result_file(tmp_path, frame)
    points.tofile(tmp_path / "images" / "points.bin")
    sizes = [
        write_page(read_results(path), tmp_path / "page.html", PageStyle(camera_width=w))
        for w in (96, 24)
    ]
    assert sizes[1] < sizes[0]
    assert 'id="lidar-0"' in (tmp_path / "page.html").read_text()


def test_frames_are_chosen_by_scene_and_number(tmp_path: Path) -> None:
    frames = (make_frame("a"), make_frame("b", scene="other"), make_frame("c", scene="other"))
    results = read_results(write_result_file(tmp_path, *frames))
    assert [f.token for f in choose_frames(results, ["other"], 1, None).frames] == ["b"]
    with pytest.raises(ValueError, match="no scene third; there are street, other"):
        choose_frames(results, ["third"], None, None)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    path = write_result_file(tmp_path, make_frame())
    (tmp_path / "images" / "camera 60.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"camera 60\.jpg of camera camera 60 is missing"):
        write_page(read_results(path), tmp_path / "page.html")


def test_the_tool_loads_neither_torch_nor_the_devkit(tmp_path: Path) -> None:
    path = write_result_file(tmp_path, make_frame())
    code = (
        "import runpy, sys; sys.argv[0] = 'view.py'; runpy.run_path('tools/view.py', "
        "run_name='__main__'); print([m for m in ('torch', 'nuscenes') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), "-o", str(tmp_path / "page.html")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[1] == "[]"
    assert (tmp_path / "page.html").stat().st_size > 20_000


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/view.py", str(tmp_path / "none.json")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: result file {tmp_path}/none.json is missing\n"
