"""Figures whose lines are means over seeds, with the caption that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from normwise.lab.design.arms import Arm, Arms
from normwise.lab.intervals import Numbers, band
from normwise.lab.results import Figure, Panel, Scale, Series

SPREAD = "Line: mean over seeds; band: smallest to largest."
Marks = tuple[tuple[float, str], ...]
GUESSING: Marks = ((0.1, "guessing"),)


def line(
    label: str, x: Iterable[float], values: Numbers, back: Callable[[Numbers], Numbers] = lambda values: values
) -> Series:
    """One line with its band.

    Args:
        label: for the legend.
        x: shape (points,).
        values: shape (seeds, points).
        back: from the scale on which the mean is taken to the one that is shown: ``np.exp`` for a geometric mean.
    """
    middle, low, high = (tuple(back(each)) for each in band(values))
    return Series(label, tuple(float(each) for each in x), middle, low, high)


def panel(title: str, lines: Iterable[Series], marks: Marks = ()) -> Panel:
    """One pair of axes."""
    return Panel(title, tuple(lines), marks)


def figure(
    name: str,
    title: str,
    panels: Iterable[Panel],
    *,
    x_label: str,
    y_label: str = "test accuracy",
    caption: str = "",
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
) -> Figure:
    """A figure whose caption ends with what its lines and bands are, unless it says so before its end."""
    words = caption if "Line: " in caption else f"{caption} {SPREAD}".strip()
    return Figure(name, title, words, x_label, y_label, tuple(panels), x_scale, y_scale)


Titles = str | Callable[[Arms], str]
"""The titles of panels: a text with the words of an axis where its name stands in braces, or a function of the arms."""


def by_rate(
    title: str,
    groups: Iterable[Arms],
    panels: Titles,
    *,
    what: str = "test",
    caption: str = "",
    x_label: str = "learning rate",
    y_label: str = "test accuracy",
    marks: Marks | Callable[[Arms], Marks] = (),
) -> Figure:
    """Test accuracy at every rate: a panel for each group of arms, and in it a line for each arm.

    Args:
        title: of the figure.
        groups: what ``Arms.by`` gives.
        panels: their titles.
        what: the lines are of.
        caption: what to see, in front of what lines and bands are.
        x_label: of the rates.
        y_label: of what was measured.
        marks: horizontal lines in every panel, or a function of its group of arms that gives them.
    """
    shown = []
    for group in groups:
        lines = (line(_label(arm, group), arm.rates, arm.array(what)) for arm in group)
        shown.append(panel(_title(panels, group), lines, marks(group) if callable(marks) else marks))
    return figure("accuracy_by_rate", title, shown, x_label=x_label, y_label=y_label, caption=caption, x_scale="log")


def by_measure(
    name: str,
    title: str,
    arms: Arms,
    x: Iterable[float],
    measures: Mapping[str, str],
    *,
    x_label: str,
    y_label: str = "test accuracy",
    caption: str = "",
    x_scale: Scale = "linear",
) -> Figure:
    """A figure of measures over some numbers: a panel for each measure, and in it a line for each arm.

    Args:
        name: of the figure.
        title: of the figure.
        arms: of which there is a line each.
        x: shape (points,).
        measures: by name, with the titles of their panels; each of shape (seeds, points).
        x_label: of the numbers.
        y_label: of what was measured.
        caption: what to see, in front of what lines and bands are.
        x_scale: of the axis.
    """
    x = list(x)
    shown = [
        panel(words, (line(_label(arm, arms), x, arm.array(what)) for arm in arms)) for what, words in measures.items()
    ]
    return figure(name, title, shown, x_label=x_label, y_label=y_label, caption=caption, x_scale=x_scale)


def by_step(
    title: str,
    groups: Iterable[Arms],
    panels: Titles,
    steps: Sequence[int],
    *,
    name: str = "accuracy_by_step",
    what: str = "test",
    caption: str = "",
    y_label: str = "test accuracy",
    y_scale: Scale = "linear",
    marks: Marks | Callable[[Arms], Marks] = (),
) -> Figure:
    """A figure of a measure after so many steps, at the rate that is picked for each arm; otherwise as ``by_rate``."""
    shown = []
    for group in groups:
        lines = (line(_label(arm, group), steps, arm.numbers(what)) for arm in group)
        shown.append(panel(_title(panels, group), lines, marks(group) if callable(marks) else marks))
    return figure(name, title, shown, x_label="steps", y_label=y_label, caption=caption, x_scale="log", y_scale=y_scale)


def across(label: str, arms: Iterable[Arm], axis: str, what: str | Callable[[Arm], Numbers] = "test") -> Series:
    """A line over the values of an axis, each arm at the rate that is picked for it.

    Args:
        label: for the legend.
        arms: one for each value.
        axis: whose values they are.
        what: was measured; or a function of an arm, shape (seeds,).
    """
    arms = list(arms)
    values = [arm.numbers(what) if isinstance(what, str) else what(arm) for arm in arms]
    return line(label, (arm.values[axis] for arm in arms), np.stack(values, axis=1))


def _label(arm: Arm, group: Arms) -> str:
    return ", ".join(arm.words[axis] for axis in group.axes)


def _title(panels: Titles, group: Arms) -> str:
    return panels.format(**group.words) if isinstance(panels, str) else panels(group)
