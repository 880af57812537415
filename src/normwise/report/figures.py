"""Draws a figure that is given as numbers: one SVG per panel, so that panels can wrap on a narrow screen."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normwise.lab.results import Figure, Panel, Series
from normwise.report import looks, svg, ticks
from normwise.report.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Panel sizes in CSS pixels by the number of panels that stand side by side, and the size of the letters. A single panel
# is not drawn wider, because on a phone its letters would shrink below what can be read.
_SIZES = {1: (420, 300, 13.0), 2: (420, 300, 13.0), 3: (345, 295, 12.0)}
_LEFT, _RIGHT, _TICKS, _LINE = 52, 12, 28, 1.35
_MOST_MARKERS = 14


@dataclass(frozen=True)
class Key:
    """One entry of a legend; ``swatch`` is an SVG of the line."""

    label: str
    swatch: str


def draw(figure: Figure, look: Mapping[str, looks.Style], *, prefix: str) -> tuple[str, ...]:
    """Draws a figure: one SVG element per panel, all with the same scales and sizes.

    Args:
        figure: the figure as numbers.
        look: the style of every label, from :func:`looks.styles`.
        prefix: stands before every id in the SVG; unique on the page.

    Returns:
        One inline ``<svg>`` per panel. Colours are CSS variables and ``currentColor``, the background is transparent.
    """
    width, height, size = _SIZES[min(len(figure.panels), 3)]
    letters = int(width / (size * 0.56))
    titles = [textwrap.fill(printable(panel.title), int(letters * 0.92)) for panel in figure.panels]
    y_label = textwrap.fill(printable(figure.y_label), letters)
    above = max(title.count("\n") + 1 for title in titles) * size * _LINE if any(titles) else 0.0
    top = above + (y_label.count("\n") + 1) * size * _LINE + 8
    with looks.settings(size):
        canvases, axes = [], []
        for panel in figure.panels:
            canvas, ax = _axes(figure, width, height, top)
            _fill(ax, figure, panel, look)
            canvases.append(canvas)
            axes.append(ax)
        _share(axes, figure)
        drawn = []
        for n, (canvas, panel, title) in enumerate(zip(canvases, figure.panels, titles, strict=True)):
            words: dict[str, Any] = {"parse_math": False, "va": "top", "ha": "left", "linespacing": 1.2}
            canvas.text(1 / width, 1 - 2 / height, title, fontsize=size + 0.5, fontweight="bold", **words)
            canvas.text(1 / width, 1 - (2 + above) / height, y_label, fontsize=size - 0.5, alpha=0.75, **words)
            name = ": ".join(part for part in (figure.title, panel.title) if part)
            description = _describe(figure, panel)
            drawn.append(_svg(canvas, f"{prefix}-{n + 1}", printable(name), description))
    return tuple(drawn)


def legend(figure: Figure, look: Mapping[str, looks.Style], *, prefix: str) -> tuple[Key, ...]:
    """The legend of a figure: its labels in order, then its reference lines, each with a swatch.

    Args:
        figure: the figure as numbers.
        look: the style of every label, from :func:`looks.styles`.
        prefix: stands before every id in the swatches; unique on the page.
    """
    labels = dict.fromkeys(line.label for panel in figure.panels for line in panel.series)
    keys = [(label, looks.line_arguments(look[label])) for label in labels]
    keys += [(label, looks.mark_arguments(dash)) for label, dash in looks.mark_dashes(figure).items()]
    return tuple(
        Key(printable(label), _swatch(arguments, f"{prefix}-key-{n + 1}")) for n, (label, arguments) in enumerate(keys)
    )


def _axes(figure: Figure, width: int, height: int, top: float) -> tuple[Canvas, Axes]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width / 72, height / 72))  # one unit of the SVG is one CSS pixel
    x_label = textwrap.fill(printable(figure.x_label), width // 8)
    bottom = _TICKS + (x_label.count("\n") + 1) * 13 * _LINE
    box = (_LEFT / width, bottom / height, 1 - (_LEFT + _RIGHT) / width, 1 - (bottom + top) / height)
    ax = canvas.add_axes(box)
    ax.set_xlabel(x_label, parse_math=False, alpha=0.75, labelpad=5)
    for put, scale in ((ax.set_xscale, figure.x_scale), (ax.set_yscale, figure.y_scale)):
        put(scale, **({"nonpositive": "mask"} if scale == "log" else {}))
    ax.grid(axis="y", color=looks.INK, alpha=0.13, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_alpha(0.5)
    ax.margins(x=0.03, y=0.06)
    return canvas, ax


def _fill(ax: Axes, figure: Figure, panel: Panel, look: Mapping[str, looks.Style]) -> None:
    heights = [h for line in panel.series for h in (*line.y, *line.low, *line.high) if h is not None and h > 0]
    floor = min(heights, default=1e-300)
    dashes = looks.mark_dashes(figure)
    for height, label in panel.marks:
        ax.axhline(height, zorder=1.5, **looks.mark_arguments(dashes[label]))
    for n, line in enumerate(panel.series):
        style = look[line.label]
        y = [_nan(h) for h in line.y]
        if line.low and line.high:
            # On a logarithmic axis a band that reaches zero ends at the smallest height that can be shown.
            low = [max(_nan(h), floor) if figure.y_scale == "log" else _nan(h) for h in line.low]
            high = [_nan(h) for h in line.high]
            ax.fill_between(line.x, low, high, color=style.colour, alpha=0.16, linewidth=0, zorder=2)
        ax.plot(line.x, y, zorder=3, markevery=_marked(line, n), **looks.line_arguments(style))


def _nan(height: float | None) -> float:
    return float("nan") if height is None else height


def _marked(line: Series, place: int) -> list[int]:
    """The points that get a marker: some along the line, and every point that stands alone between gaps."""
    present = [n for n, height in enumerate(line.y) if height is not None]
    step = max(1, -(-len(present) // _MOST_MARKERS))
    known = set(present)
    alone = [n for n in present if n - 1 not in known and n + 1 not in known]
    return sorted({*present[(place * step // 3) % step :: step], *alone})


def _share(axes: list[Axes], figure: Figure) -> None:
    """Gives all panels the widest limits of any, and the same ticks."""
    for side, scale in (("x", figure.x_scale), ("y", figure.y_scale)):
        limits = [getattr(ax, f"get_{side}lim")() for ax in axes]
        low, high = min(low for low, _ in limits), max(high for _, high in limits)
        at = ticks.positions(low, high, scale)
        for ax in axes:
            getattr(ax, f"set_{side}lim")(low, high)
            getattr(ax, f"set_{side}ticks")(at, ticks.written(at, scale))
            getattr(ax, f"set_{side}ticks")([], minor=True)


def _swatch(arguments: Mapping[str, Any], prefix: str) -> str:
    from matplotlib.figure import Figure as Canvas

    with looks.settings(12):
        canvas = Canvas(figsize=(38 / 72, 12 / 72))
        ax = canvas.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set(xlim=(0, 38), ylim=(0, 12))
        ax.plot([1, 19, 37], [6, 6, 6], markevery=[1], **arguments)
        return _svg(canvas, prefix, "")


def _svg(canvas: Canvas, prefix: str, title: str, description: str = "") -> str:
    out = io.StringIO()
    with warnings.catch_warnings():
        # Letters that matplotlib's own font lacks are drawn by the reader's browser, which has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.savefig(out, format="svg", metadata={"Date": None})
    return svg.embed(out.getvalue(), prefix=prefix, title=title, description=description, colours=looks.REPLACED)


def _describe(figure: Figure, panel: Panel) -> str:
    """The text that a listener gets instead of the picture: the axes and the ends of every line."""
    said = [f"{figure.y_label} against {figure.x_label}."]
    for line in panel.series:
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if y is not None]
        if points:
            (x0, y0), (x1, y1) = points[0], points[-1]
            said.append(f"{line.label}: {y0:.3g} at {x0:.3g}, {y1:.3g} at {x1:.3g}.")
    said += [f"Reference line: {label}, at {height:.3g}." for height, label in panel.marks]
    return printable(" ".join(said))
