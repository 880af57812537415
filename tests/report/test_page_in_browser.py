"""The page in a headless Chromium: what it shows, what it logs, what it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from normwise.lab.results import Result
from normwise.report import page, wording
from tests.browser import Browser, find


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
