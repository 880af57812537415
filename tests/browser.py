"""A headless Chromium, driven through its DevTools pipe: what a page shows, what it logs, what it asks for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)

# Chromium expects its ends of the pipe at the descriptors 3 and 4.
_BRIDGE = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def find() -> str:
    """The browser; without one the test is skipped on a developer's machine and fails in CI."""
    chosen = os.environ.get("CHROMIUM")
    found = chosen or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found:
        return found
    sentence = "no Chromium was found: install chromium, or set CHROMIUM to the path of its executable"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)


class Page:
    """The outcome of opening a file: the messages of the console, and every address that was asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression; the page itself has no script."""
        answer = self._browser.call(
            "Runtime.evaluate", {"expression": expression, "returnByValue": True}, session=self._session
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Saves a picture of the whole page."""
        answer = self._browser.call(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}, session=self._session
        )
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """Starts the browser and speaks to it; a context manager."""

    def __init__(self, executable: str) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        here_reads, there_writes = os.pipe()
        there_reads, here_writes = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _BRIDGE, str(there_reads), str(there_writes)),
                *(executable, *_QUIET, f"--user-data-dir={self._folder.name}"),
            ],
            pass_fds=(there_reads, there_writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there_reads)
        os.close(there_writes)
        self._in, self._out = here_reads, here_writes
        self._rest, self._number = b"", 0
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)  # the browser ends with its pipe
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._folder.cleanup()

    def open(self, path: Path, *, query: str = "", width: int = 1200, dark: bool = False) -> Page:
        """Opens a file and waits until it is drawn; ``query`` stands behind its address."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        shown = self._pages[session] = Page(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable", session=session)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [scheme]}, session=session)
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", screen, session=session)
        self.call("Page.navigate", {"url": path.as_uri() + query}, session=session)
        until = time.monotonic() + 120
        while shown.ask("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < until, f"{path.name} did not load within 120 seconds"
            time.sleep(0.02)
        # A short wait, in which a request that the page must not make would be seen.
        time.sleep(0.2)
        shown.ask("0")
        return shown

    def call(self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None) -> Any:
        """Sends one command, and notes the events that come before its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        shown = self._pages.get(event.get("sessionId", ""))
        if shown is None:
            return
        details = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            shown.requests.append(details["request"]["url"])
        elif event["method"] == "Log.entryAdded":
            shown.complaints.append(details["entry"]["text"])
        elif event["method"] in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"}:
            shown.complaints.append(json.dumps(details))
