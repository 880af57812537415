"""The figures of the tour: drawn as the report draws, as files of their own that follow a dark page.

Most are figures of the lab's kept results. A file says which numbers it was drawn from, so that checking it draws
nothing.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from html import escape
from itertools import product
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


def translated(figure: Figure, language: tour.Language) -> Figure:
    """The figure with its words in a language."""
    panels = tuple(
        replace(
            panel,
            title=language.labelled(panel.title),
            series=tuple(replace(line, label=language.labelled(line.label)) for line in panel.series),
            marks=tuple((height, language.labelled(label)) for height, label in panel.marks),
        )
        for panel in figure.panels
    )
    title, x_label, y_label = map(language.labelled, (figure.title, figure.x_label, figure.y_label))
    return replace(figure, panels=panels, title=title, x_label=x_label, y_label=y_label)


def picture(root: Path, page: dict[str, Any], language: tour.Language) -> tuple[str, Callable[[str], str]]:
    """The digest of what a figure is drawn from, its words included, and what draws it with a style."""
    figure = numbers(root, page)
    if figure is None:
        mark = tour.digest(relatives(language, "", ""))
        return mark, lambda style: relatives(language, mark, style)
    figure = translated(figure, language)
    mark = tour.digest(json.dumps(asdict(figure), ensure_ascii=False))
    return mark, lambda style: standing(figure, mark, style)


def refresh(root: Path, pages: list[dict[str, Any]], languages: list[tour.Language]) -> list[Path]:
    """Draw the figures whose numbers or words changed; which."""
    drawn = []
    for page, language in product(pages, languages):
        path = root / language.figures / f"{page['name']}.svg"
        mark, draw = picture(root, page, language)
        if not path.exists() or f"numbers: {mark}" not in path.read_text("utf-8"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(draw(sheet(root)), encoding="utf-8")
            drawn.append(path.relative_to(root))
    return drawn


def troubles(root: Path, pages: list[dict[str, Any]], languages: list[tour.Language]) -> list[str]:
    """One sentence for every figure that is missing, stale, or of no page any more."""
    found = []
    for page, language in product(pages, languages):
        path = language.figures / f"{page['name']}.svg"
        if not (root / path).exists():
            found.append(f"{path} is missing; run `make docs`.")
        elif f"numbers: {picture(root, page, language)[0]}" not in (root / path).read_text("utf-8"):
            found.append(f"{path} is stale; run `make docs`.")
    names = {page["name"] for page in pages}
    there = sorted(path for language in languages for path in (root / language.figures).glob("*.svg"))
    left = [path for path in there if path.stem not in names]
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
    """A figure's legend and panels as one file: below each other, because side by side a phone would shrink them."""
    look = looks.styles([figure])
    panels = [re.sub("<desc.*?</desc>", "", each) for each in figures.draw(figure, look, prefix="panel")]
    sizes = [tuple(float(size) for size in re.findall(r'(?:width|height)="([\d.]+)"', each)[:2]) for each in panels]
    whole = max(width for width, _ in sizes)
    x, y, parts = 0.0, 0.0, []
    for key in figures.legend(figure, look, prefix="legend"):
        size = 48 + width_of(key.label)
        if x and x + size > whole:
            x, y = 0.0, y + ROW
        parts.append(key.swatch.replace("<svg ", f'<svg x="{x:.0f}" y="{y + 5:.0f}" ', 1))
        parts.append(
            f'<text x="{x + 40:.0f}" y="{y + 16:.0f}" font-size="13" fill="currentColor">{escape(key.label)}</text>'
        )
        x += size + GAP
    y += ROW + 6
    for panel, (_, height) in zip(panels, sizes, strict=True):
        parts.append(panel.replace("<svg ", f'<svg x="0" y="{y:.0f}" ', 1))
        y += height + GAP
    return file(figure.title, mark, style, (whole, y - GAP), parts)


def width_of(text: str) -> int:
    """About the width of a label of the legend; a Chinese letter takes twice the room."""
    return sum(14 if re.match(tour.CHINESE, letter) else COLUMN for letter in text)


def file(title: str, mark: str, style: str, size: tuple[float, float], parts: list[str]) -> str:
    """A picture with its title, the digest of its numbers and its colours."""
    width, height = (f"{each:.0f}" for each in size)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    inner = [f"<!-- numbers: {mark} -->", f"<title>{escape(title)}</title>", f"<style>{style}</style>", *parts]
    return "\n".join([f'{head} role="img">', *inner, "</svg>"]) + "\n"


def relatives(language: tour.Language, mark: str, style: str) -> str:
    """A picture of the values of a batch that share a mean: samples downwards, channels across."""
    kinds: list[Callable[[int, int], bool]] = [
        lambda _, channel: channel == 0,
        lambda sample, _: sample == 0,
        lambda sample, channel: sample == 0 and channel < 3,
        lambda sample, channel: sample == 0 and channel == 0,
    ]
    cell, samples, channels = 24, 4, 6
    parts, width, height = [], channels * cell + 40, samples * cell + 48
    for place, (name, shares) in enumerate(zip(language.relatives, kinds, strict=True)):
        left, top = place % 2 * width + 4, place // 2 * height
        parts.append(
            f'<text x="{left}" y="{top + 18}" font-size="14" font-weight="bold" fill="currentColor">{name}</text>'
        )
        for sample, channel in product(range(samples), range(channels)):
            fill = looks.REPLACED[looks.COLOURS[0]] if shares(sample, channel) else "none"
            x, y, side = left + channel * cell, top + 30 + sample * cell, cell - 2
            parts.append(
                f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{fill}" stroke="currentColor" '
                'stroke-opacity="0.6"/>'
            )
    foot = 2 * height + 12
    for place, line in enumerate(language.below):
        parts.append(f'<text x="4" y="{foot + 20 * place}" font-size="13" fill="currentColor">{line}</text>')
    title = language.labelled("Which values share their statistics")
    return file(title, mark, style, (2 * width, foot + 20 * len(language.below) - 10), parts)
