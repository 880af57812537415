"""The looks of lines: colours for light and dark pages, dashes and markers for pages without colour."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from normwise.lab.results import Figure

# Distinguishable with the common kinds of colour blindness, and at least 3:1 against white; the page's style sheet has
# the counterparts for a dark background. Dashes and markers tell the series apart where there is no colour at all.
COLOURS = ("#0067a5", "#c4500a", "#00806a", "#9c4a8b", "#8a6a00", "#5b6470")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.8)), (0, (7, 2, 1.5, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MARK_DASHES: tuple[Any, ...] = ((0, (2, 3)), (0, (8, 4)), (0, (8, 3, 2, 3)), "-")
INK, PAPER = "#010203", "#fdfefc"  # placeholders: no series has these colours
REPLACED = {INK: "currentColor", PAPER: "var(--paper, #ffffff)"} | {
    colour: f"var(--series-{place}, {colour})" for place, colour in enumerate(COLOURS, 1)
}


@dataclass(frozen=True)
class Style:
    """The style of a label: the same in all panels and all figures of an experiment."""

    colour: str
    dash: Any
    marker: str


def styles(figures: Iterable[Figure]) -> dict[str, Style]:
    """Gives every label a style; a label looks the same everywhere, and no two look alike in one figure.

    Args:
        figures: all figures that shall agree, usually those of one experiment.
    """
    places: dict[str, int] = {}
    for figure in figures:
        labels = list(dict.fromkeys(line.label for panel in figure.panels for line in panel.series))
        taken = {places[label] for label in labels if label in places}
        for label in labels:
            if label not in places:
                # A style that nothing on the page has yet, if there is one, else the first that this figure lacks.
                fresh = (n for n in range(len(COLOURS)) if n not in places.values())
                places[label] = next(fresh, next(n for n in itertools.count() if n not in taken))
                taken.add(places[label])
    return {label: _style(place) for label, place in places.items()}


def _style(place: int) -> Style:
    return Style(COLOURS[place % len(COLOURS)], _DASHES[place % len(_DASHES)], _MARKERS[place % len(_MARKERS)])


@contextmanager
def settings(size: float) -> Iterator[None]:
    """Draws with these settings and no others, whatever the reader's own matplotlib is set to.

    Args:
        size: of the letters, in CSS pixels.
    """
    import matplotlib

    chosen: Any = {**_SETTINGS, "font.size": size, "xtick.labelsize": size - 1, "ytick.labelsize": size - 1}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(chosen)
        yield


def line_arguments(style: Style) -> dict[str, Any]:
    """The arguments of matplotlib for a line of this style."""
    return {
        "color": style.colour,
        "linestyle": style.dash,
        "linewidth": 1.9,
        "marker": style.marker,
        "markersize": 7.4 if style.marker in "^vPX" else 6.2,  # these cover less than a disc of the same size
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.8,
    }


def mark_arguments(dash: Any) -> dict[str, Any]:
    """The arguments of matplotlib for a reference line."""
    return {"color": INK, "linestyle": dash, "linewidth": 1.1, "alpha": 0.65}


def mark_dashes(figure: Figure) -> dict[str, Any]:
    """The dash of every reference line of a figure, by its label."""
    labels = dict.fromkeys(label for panel in figure.panels for _, label in panel.marks)
    return {label: _MARK_DASHES[n % len(_MARK_DASHES)] for n, label in enumerate(labels)}


_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "normwise",  # the same numbers give the same bytes
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "path.simplify": True,
}
