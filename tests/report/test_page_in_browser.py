"""The page in a headless Chromium, driven through its DevTools pipe: what it shows, what it logs, what it asks for."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from normwise.lab.results import Result
from normwise.report import page, wording

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
    """What came of opening a file: the messages of the console, and every address that was asked for."""

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

    def open(self, path: Path, *, width: int = 1200, dark: bool = False) -> Page:
        """Opens a file and waits until it is drawn."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        shown = self._pages[session] = Page(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable", session=session)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", {"features": [scheme]}, session=session)
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", screen, session=session)
        self.call("Page.navigate", {"url": path.as_uri()}, session=session)
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with Browser(find()) as running:
        yield running


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 768, 390])
def test_the_page_is_quiet_complete_and_fits(
    width: int, dark: bool, results: list[Result], hostile: Result, browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    page.write([*results, hostile], path)
    shown = browser.open(path, width=width, dark=dark)
    assert shown.complaints == []
    assert shown.requests == [path.as_uri()]
    assert shown.ask("document.title") == "Batch normalization: which claims hold? · normwise lab"
    assert shown.ask("document.documentElement.scrollWidth <= innerWidth")
    figures = [figure for result in (*results, hostile) for figure in result.conclusion.figures]
    sizes = shown.ask(
        "[...document.querySelectorAll('figure .panels > svg')].map(svg => svg.getBoundingClientRect())"
        ".map(box => [box.width, box.height])"
    )
    assert len(sizes) == sum(len(figure.panels) for figure in figures)
    assert all(wide > 250 and high > 180 for wide, high in sizes)


def test_the_check_would_notice_a_request_and_a_complaint(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<img src='missing.png'><script>console.error('boom')</script>", encoding="utf-8")
    shown = browser.open(path)
    assert any("missing.png" in address for address in shown.requests)
    assert any("boom" in complaint for complaint in shown.complaints)


def test_words_run_nothing(hostile: Result, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    page.write([hostile], path)
    shown = browser.open(path)
    assert shown.ask("document.querySelectorAll('script, img').length") == 0
    assert shown.requests == [path.as_uri()]


@pytest.mark.parametrize(("dark", "paper", "ink"), [(False, 255, 27), (True, 20, 228)], ids=["light", "dark"])
def test_lines_and_letters_follow_the_colour_scheme(
    dark: bool, paper: int, ink: int, results: list[Result], browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    page.write(results, path)
    shown = browser.open(path, dark=dark)
    assert f"rgb({paper}," in shown.ask("getComputedStyle(document.body).backgroundColor")
    assert f"rgb({ink}," in shown.ask("getComputedStyle(document.querySelector('figure svg text')).fill")
    strokes = shown.ask("[...document.querySelectorAll('.legend svg path')].map(path => getComputedStyle(path).stroke)")
    assert ("rgb(98, 176, 238)" if dark else "rgb(0, 103, 165)") in strokes


def test_letters_in_figures_can_be_read_on_a_phone(results: list[Result], browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    page.write(results, path)
    smallest = browser.open(path, width=390).ask(
        "Math.min(...[...document.querySelectorAll('figure .panels > svg text')].map(text => "
        "parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a))"
    )
    assert smallest >= 9


def test_no_legend_covers_a_drawing(results: list[Result], browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    page.write(results, path)
    for width in (1200, 390):
        overlaps = browser.open(path, width=width).ask(
            "[...document.querySelectorAll('figure')].filter(figure => {"
            " const key = figure.querySelector('.legend').getBoundingClientRect();"
            " return [...figure.querySelectorAll('.panels > svg')].some(svg => {"
            "  const box = svg.getBoundingClientRect();"
            "  return key.left < box.right && box.left < key.right && key.top < box.bottom && box.top < key.bottom"
            " })}).length"
        )
        assert overlaps == 0


def test_the_table_of_claims_shows_one_verdict_alone_where_asked(
    results: list[Result], browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    page.write(results, path)
    shown = browser.open(path)
    rows = "[...document.querySelectorAll('.claims tbody tr')].filter(row => row.checkVisibility())"
    every = shown.ask(f"{rows}.length")
    for result in results:
        for verdict in {statement.verdict for statement in result.conclusion.statements}:
            kind = verdict.name.lower().replace("_", "-")
            shown.ask(f"document.getElementById('only-{kind}').click()")
            left = shown.ask(f"{rows}.map(row => row.className)")
            meant = [each for each in wording.statements(results) if each.verdict is verdict]
            groups = sum(any(each.verdict is verdict for each in result.conclusion.statements) for result in results)
            assert sorted(left) == sorted([f"is-{kind}"] * len(meant) + ["group"] * groups)
    shown.ask("document.getElementById('only-all').click()")
    assert shown.ask(f"{rows}.length") == every == len(wording.statements(results)) + len(results)
