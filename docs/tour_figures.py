"""The figures of the tour: drawn as the report draws, as files of their own that follow a dark page.

Most are figures of the lab's kept results. A file says which numbers it was drawn from, so that checking it draws
nothing.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from docs import tour
from normwise.lab.results import Figure, Panel, Series
from normwise.report import figures, looks, markdown
from normwise.report.runs import gathered

SHEET = Path("src/normwise/report/page.css")
ROW, COLUMN = 24, 8
"""The height of a line of the legend, and about the width of a letter."""
GAP = 16


def by_hand() -> Figure:
    """Four numbers before and behind the layer."""
    x = np.array([2.0, 4, 6, 8])
    lines = [("x", x), ("normalized", (x - x.mean()) / x.std())]
    place = (1.0, 2.0, 3.0, 4.0)
    series = tuple(Series(label, place, tuple(values.tolist())) for label, values in lines)
    return Figure("by_hand", "Four numbers", "", "sample", "value", (Panel("", series, ((0.0, "0"),)),))


def training_and_inference() -> Figure:
    """A figure of a moving average that begins at 0: how near to the true mean it has come."""
    steps = np.arange(1, 401)
    series = tuple(
        Series(f"old weighs {old}", tuple(steps.tolist()), tuple((100 * (1 - old**steps)).tolist()))
        for old in (0.9, 0.99, 0.999)
    )
    words = ("batches", "% of the true mean")
    return Figure("moving", "A moving average from 0", "", *words, (Panel("", series),))


OWN: dict[str, Callable[[], Figure]] = {"by_hand": by_hand, "training_and_inference": training_and_inference}


def numbers(root: Path, page: dict[str, Any]) -> Figure | None:
    """The figure of a page; None: a drawing without numbers."""
    wanted = page.get("figure")
    if wanted is None:
        return OWN[page["name"]]() if page["name"] in OWN else None
    runs = gathered(markdown.kept(root / tour.KEPT, wanted["experiment"]))
    for each in runs[0].first.conclusion.figures if runs else ():
        if each.name == wanted["name"]:
            panels = [each.panels[place] for place in wanted["panels"]] if "panels" in wanted else each.panels
            return replace(each, panels=tuple(panels))
    raise SystemExit(
        f"{tour.SOURCE / 'pages.toml'} asks for the figure {wanted['name']!r} of {wanted['experiment']}, which is not "
        "in its kept results: name another one."
    )


def fingerprint(figure: Figure | None) -> str:
    """The digest of the numbers that a file is drawn from."""
    return tour.digest(json.dumps(asdict(figure)) if figure else relatives(""))


def refresh(root: Path, pages: list[dict[str, Any]]) -> list[Path]:
    """Draw the figures whose numbers changed; which."""
    drawn = []
    for page in pages:
        path, figure = root / tour.FIGURES / f"{page['name']}.svg", numbers(root, page)
        mark = fingerprint(figure)
        if not path.exists() or f"numbers: {mark}" not in path.read_text("utf-8"):
            path.parent.mkdir(parents=True, exist_ok=True)
            style = sheet(root)
            path.write_text(standing(figure, mark, style) if figure else relatives(mark, style), encoding="utf-8")
            drawn.append(path.relative_to(root))
    return drawn


def troubles(root: Path, pages: list[dict[str, Any]]) -> list[str]:
    """One sentence for every figure that is missing, stale, or of no page any more."""
    found = []
    for page in pages:
        path = tour.FIGURES / f"{page['name']}.svg"
        if not (root / path).exists():
            found.append(f"{path} is missing; run `make docs`.")
        elif f"numbers: {fingerprint(numbers(root, page))}" not in (root / path).read_text("utf-8"):
            found.append(f"{path} is stale; run `make docs`.")
    names = {page["name"] for page in pages}
    left = sorted(path for path in (root / tour.FIGURES).glob("*.svg") if path.stem not in names)
    return found + [f"{path.relative_to(root)} is of no page any more; delete it." for path in left]


def sheet(root: Path) -> str:
    """The report's colours, light and dark, as a style of one picture."""
    css = (root / SHEET).read_text("utf-8")
    light, dark = (
        dict(re.findall(r"(--(?:ink|paper|series-\d)): ([^;]+);", part))
        for part in (css.partition("@media")[0], css.partition("prefers-color-scheme: dark")[2].partition("\n}")[0])
    )
    font = "font-family: system-ui, 'Segoe UI', 'Noto Sans', sans-serif"

    def rule(colours: dict[str, str]) -> str:
        return "".join(f" {name}: {colour};" for name, colour in colours.items()) + f" color: {colours['--ink']};"

    return f"svg {{ {font};{rule(light)} }}\n@media (prefers-color-scheme: dark) {{ svg {{{rule(dark)} }} }}"


def standing(figure: Figure, mark: str, style: str) -> str:
    """A figure's legend and panels as one file."""
    look = looks.styles([figure])
    panels = figures.draw(figure, look, prefix="panel")
    x, y, parts = 0.0, 0.0, []
    sizes = [tuple(float(size) for size in re.findall(r'(?:width|height)="([\d.]+)"', each)[:2]) for each in panels]
    whole = sum(width for width, _ in sizes) + GAP * (len(sizes) - 1)
    for key in figures.legend(figure, look, prefix="legend"):
        size = 48 + COLUMN * len(key.label)
        if x and x + size > whole:
            x, y = 0.0, y + ROW
        parts.append(key.swatch.replace("<svg ", f'<svg x="{x:.0f}" y="{y + 5:.0f}" ', 1))
        parts.append(
            f'<text x="{x + 40:.0f}" y="{y + 16:.0f}" font-size="13" fill="currentColor">{escape(key.label)}</text>'
        )
        x += size + GAP
    y, x = y + ROW + 6, 0.0
    for panel, (width, _) in zip(panels, sizes, strict=True):
        parts.append(panel.replace("<svg ", f'<svg x="{x:.0f}" y="{y:.0f}" ', 1))
        x += width + GAP
    return file(figure.title, mark, style, (whole, y + max(height for _, height in sizes)), parts)


def file(title: str, mark: str, style: str, size: tuple[float, float], parts: list[str]) -> str:
    """A picture with its title, the digest of its numbers and its colours."""
    width, height = (f"{each:.0f}" for each in size)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    inner = [f"<!-- numbers: {mark} -->", f"<title>{escape(title)}</title>", f"<style>{style}</style>", *parts]
    return "\n".join([f'{head} role="img">', *inner, "</svg>"]) + "\n"


def relatives(mark: str, style: str = "") -> str:
    """A picture of the values of a batch that share a mean: samples downwards, channels across."""
    kinds: dict[str, Callable[[int, int], bool]] = {
        "batch norm": lambda _, channel: channel == 0,
        "layer norm": lambda sample, _: sample == 0,
        "group norm": lambda sample, channel: sample == 0 and channel < 3,
        "instance norm": lambda sample, channel: sample == 0 and channel == 0,
    }
    cell, samples, channels = 20, 4, 6
    parts, width = [], channels * cell + 40
    for place, (name, shares) in enumerate(kinds.items()):
        left = place * width + 4
        parts.append(f'<text x="{left}" y="18" font-size="14" font-weight="bold" fill="currentColor">{name}</text>')
        for sample in range(samples):
            for channel in range(channels):
                fill = looks.REPLACED[looks.COLOURS[0]] if shares(sample, channel) else "none"
                x, y, side = left + channel * cell, 30 + sample * cell, cell - 2
                parts.append(
                    f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{fill}" stroke="currentColor" '
                    'stroke-opacity="0.6"/>'
                )
    foot = 30 + samples * cell + 18
    parts.append(
        f'<text x="4" y="{foot}" font-size="13" fill="currentColor">a column is a channel, a row is a sample; filled: '
        "the values behind one mean and one variance</text>"
    )
    return file("Which values share their statistics", mark, style, (4 * width, foot + 10), parts)
