"""How large a page is, how soon it opens and how fast frames change: what docs/viewer.md tells.

python -m tests.helpers.time_page RESULTS.json [--frames 40]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from det3d.results.format import read_results
from det3d.viewer.page import PageStyle, choose_frames, write_page
from tests.helpers.browser import Browser, missing_browser, open_browser

CHANGE = """
const root = document.documentElement, started = performance.now();
const slider = document.getElementById("time");
slider.value = arguments[0];
slider.dispatchEvent(new Event("input", {bubbles: true}));
return new Promise((resolve) => {
  const look = () => root.dataset.frame === String(arguments[0])
    ? requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - started)))
    : setTimeout(look, 1);
  look();
});
"""


def opening_seconds(browser: Browser, page: Path) -> float:
    """From the wish to open the page to its first frame drawn and all controls alive."""
    started = time.perf_counter()
    browser.open(page)
    browser.wait("document.documentElement.dataset.ready", seconds=60)
    return time.perf_counter() - started


def change_milliseconds(browser: Browser, frames: list[int]) -> list[float]:
    """From the wish for each frame until it has been painted; two pictures of the screen included.

    One picture of the screen lasts 16.7 ms.
    """
    return [browser.run(CHANGE, frame) for frame in frames]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--frames", type=int, default=40)
    options = parser.parse_args()
    if reason := missing_browser():
        raise SystemExit(reason)
    results = choose_frames(read_results(options.results), [], options.frames, None)
    count = len(results.frames)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_page(results, folder / "page.html", PageStyle())
        print(f"{count} frames: {size / 1e6:.1f} MB")
        with open_browser(folder / "profile") as browser:
            opened = [opening_seconds(browser, folder / "page.html") for _ in range(3)]
            print("opens in " + ", ".join(f"{seconds:.2f}" for seconds in opened) + " s")
            steps = change_milliseconds(browser, list(range(1, count)))
            jumps = change_milliseconds(browser, [7 * i % count for i in range(1, count)])
    for kind, times in (("to the next frame", steps), ("to any other frame", jumps)):
        print(f"{kind}: median {statistics.median(times):.0f} ms, most {max(times):.0f} ms")


if __name__ == "__main__":
    main()
