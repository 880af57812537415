"""Figures: what is in the SVG, and that several of them can stand on one page."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from normwise.lab.results import Figure, Panel, Result, Series
from normwise.report import figures, looks

NAMESPACE = "{http://www.w3.org/2000/svg}"


def figure(*panels: Panel, **changes: object) -> Figure:
    given = {"name": "f", "title": "Title", "caption": "", "x_label": "layer", "y_label": "norm", "panels": panels}
    return Figure(**{**given, **changes})  # type: ignore[arg-type]  # the changes are as free as the fields


def line(label: str, *y: float | None) -> Series:
    return Series(label, tuple(float(n) for n in range(len(y))), y)


def drawn(shown: Figure, prefix: str = "a") -> tuple[str, ...]:
    return figures.draw(shown, looks.styles([shown]), prefix=prefix)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{NAMESPACE}text")]


def test_every_panel_has_its_title_and_both_axes_labelled(results: list[Result]) -> None:
    for shown in (each for result in results for each in result.conclusion.figures):
        pictures = drawn(shown)
        assert len(pictures) == len(shown.panels)
        for picture, panel in zip(pictures, shown.panels, strict=True):
            for text in filter(None, (panel.title, shown.x_label, shown.y_label)):
                assert text in texts(picture)


def test_the_same_numbers_give_the_same_bytes(results: list[Result]) -> None:
    shown = results[1].conclusion.figures[0]
    assert drawn(shown) == drawn(shown)


def test_no_id_occurs_twice_on_a_page_and_every_reference_has_its_target(results: list[Result]) -> None:
    page = "".join(
        picture
        for result in results
        for n, shown in enumerate(result.conclusion.figures)
        for picture in drawn(shown, f"{result.experiment}-{n}")
    )
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(ids)


def test_colours_fonts_and_background_are_the_pages(results: list[Result]) -> None:
    picture = drawn(results[0].conclusion.figures[0])[0]
    assert "currentColor" in picture
    assert "var(--series-1, #0067a5)" in picture
    assert "font-family" not in picture
    colours = set(re.findall(r"#[0-9a-f]{6}", picture))
    assert colours <= {*looks.COLOURS, "#ffffff"}, "a colour that no style sheet can change"


def test_a_gap_is_a_gap_and_a_point_between_gaps_is_seen() -> None:
    whole = drawn(figure(Panel("", (line("a", 1, 2, 3, 4, 5, 6, 7),))))[0]
    broken = drawn(figure(Panel("", (line("a", 1, 2, None, 4, None, 6, 7),))))[0]
    longest = max((e.get("d", "") for e in ET.fromstring(broken).iter(f"{NAMESPACE}path")), key=len)
    assert "M" in longest
    assert whole.count("<use ") - broken.count("<use ") == 2  # a marker for each point that is there


def test_a_lone_point_keeps_its_marker_however_long_the_line() -> None:
    heights: list[float | None] = [float(n) for n in range(200)]
    heights[100] = heights[102] = None
    series = line("a", *heights)
    assert 101 in figures._marked(series, 0)


def test_a_label_looks_the_same_in_all_panels_and_no_two_look_alike_in_one() -> None:
    first = figure(Panel("", tuple(line(name, 1, 2) for name in "abcdefgh")))
    second = figure(Panel("", (line("h", 1, 2), line("i", 1, 2), line("a", 1, 2))))
    found = looks.styles([first, second])
    for shown in (first, second):
        labels = [series.label for series in shown.panels[0].series]
        for one, other in itertools.combinations(labels, 2):
            assert found[one] != found[other]
            assert (found[one].dash, found[one].marker) != (found[other].dash, found[other].marker)


def test_panels_share_their_scales() -> None:
    small, large = drawn(figure(Panel("a", (line("x", 0, 1),)), Panel("b", (line("x", 0, 100),))))
    numbers = [[text for text in texts(picture) if re.fullmatch(r"−?[\d.]+", text)] for picture in (small, large)]
    assert numbers[0] == numbers[1]


def test_a_logarithmic_axis_stands_zero_and_nothing_at_all() -> None:
    band = Series("a", (1.0, 2.0), (1e-9, 1e-3), (0.0, 1e-4), (1e-8, 1e-2))
    assert "10⁻⁸" in texts(drawn(figure(Panel("", (band,)), y_scale="log"))[0])
    assert drawn(figure(Panel("", (line("a", None, None),)), y_scale="log"))
    assert drawn(figure(Panel("", ())))


def test_the_legend_names_every_label_and_every_reference_line() -> None:
    shown = figure(
        Panel("", (line("a", 1, 2), line("b", 2, 1)), ((1.5, "chance"),)),
        Panel("", (line("a", 1, 2),), ((1.5, "chance"),)),
    )
    keys = figures.legend(shown, looks.styles([shown]), prefix="k")
    assert [key.label for key in keys] == ["a", "b", "chance"]
    assert all('aria-hidden="true"' in key.swatch for key in keys)


def test_a_listener_is_told_what_a_panel_shows() -> None:
    picture = drawn(figure(Panel("relu", (line("plain", 1, None, 0.25),), ((0.5, "half"),))))[0]
    root = ET.fromstring(picture)
    assert root.get("role") == "img"
    assert root.findtext(f"{NAMESPACE}title") == "Title: relu"
    assert root.findtext(f"{NAMESPACE}desc") == (
        "norm against layer. plain: 1 at 0, 0.25 at 2. Reference line: half, at 0.5."
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_stands_out_from_the_background(scheme: str) -> None:
    css = (Path(looks.__file__).parent / "page.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[:2]
    colours = list(looks.COLOURS) if scheme == "light" else re.findall(r"--series-\d: (#\w{6})", dark)
    paper = re.findall(r"--paper: (#\w{6})", light if scheme == "light" else dark)[0]
    assert len(colours) == len(looks.COLOURS)
    for colour in colours:
        assert contrast(colour, paper) >= 3, colour  # WCAG 2.1, 1.4.11, graphical objects


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
