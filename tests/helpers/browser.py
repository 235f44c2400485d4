"""Headless Chromium driven over the WebDriver protocol, with the standard library alone."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip


def missing_browser() -> str | None:
    """Why no browser test can run here, or None."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(lacking)} (Debian: chromium, chromium-driver)" if lacking else None


class Browser:
    """One tab; ``run`` executes JavaScript in it and returns the value."""

    def __init__(self, port: int, folder: Path, size: tuple[int, int], scheme: str) -> None:
        self.base = f"http://127.0.0.1:{port}"
        arguments = [*FLAGS, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        if scheme == "dark":
            arguments.append("--force-dark-mode")
        wishes = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": arguments},
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wishes}})
        self.session = f"/session/{made['sessionId']}"
        self.devtools("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1],
                      deviceScaleFactor=1, mobile=size[0] < 600)  # fmt: skip

    def open(self, path: Path) -> None:
        """Load a file; requests of whatever stood there before are forgotten."""
        self.requests()
        self._call("POST", f"{self.session}/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Value of a function body; promises are awaited."""
        body = {"script": script, "args": list(arguments)}
        return self._call("POST", f"{self.session}/execute/sync", body)

    def wait(self, condition: str, seconds: float = 10.0) -> None:
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} never held"
            time.sleep(0.02)

    def click(self, x: float, y: float, count: int = 1) -> None:
        """A real click of the mouse at a place in the window."""
        move = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        clicks = [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")] * count
        self._call("POST", f"{self.session}/actions", {"actions": [
            {"type": "pointer", "id": "mouse", "actions": [move, *clicks]}]})  # fmt: skip

    def press(self, key: str) -> None:
        """A real key."""
        pair = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keys", "actions": pair}]}
        self._call("POST", f"{self.session}/actions", body)

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        entries = self._call("POST", f"{self.session}/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def complaints(self) -> list[str]:
        """Errors on the console."""
        entries = self._call("POST", f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self._call("GET", f"{self.session}/screenshot")))

    def devtools(self, method: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        body = {"cmd": method, "params": parameters}
        return self._call("POST", f"{self.session}/goog/cdp/execute", body)

    def close(self) -> None:
        """End the session and with it the browser."""
        self._call("DELETE", self.session)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=240) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None


@contextmanager
def open_browser(
    folder: Path, size: tuple[int, int] = (1280, 800), scheme: str = "light"
) -> Iterator[Browser]:
    """A browser whose profile lies in ``folder``, ended with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}", "--silent"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        browser = Browser(port, folder, size, scheme)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait()


def wait_for(port: int, seconds: float = 20.0) -> None:
    """Wait until something listens at a port of this machine."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at port {port}")
