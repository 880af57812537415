"""What an experiment hands over: statements with verdicts, a table, figures as numbers, and a stamp.

Plain data without any framework, so that the terminal, the JSON file and the HTML page say the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Scale = Literal["linear", "log"]


class Verdict(StrEnum):
    """What the numbers say of a statement; it follows from them by a rule and is never written by hand."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Estimate:
    """A number with its spread.

    Args:
        value: the estimate (mean or median over seeds, as the statement says).
        low: lower end of the 95 % interval, in the same unit.
        high: upper end of the 95 % interval.
        n: how many seeds (pairs) stand behind it.
        unit: of ``value``, for example ``"points"``, ``"ratio"``, ``"log10"``.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str


@dataclass(frozen=True)
class Statement:
    """One sentence that can be true or false, and what the numbers say of it.

    Args:
        text: the statement in plain words.
        effect: what was measured.
        counts_as_holding: the rule in plain words, with its threshold.
        verdict: what the rule gave.
        published: the published number and its source, or empty where there is none.
    """

    text: str
    effect: Estimate
    counts_as_holding: str
    verdict: Verdict
    published: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells that a person can read; numbers are already rounded and carry their spread."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Series:
    """One line of a figure with its spread.

    Args:
        label: for the legend; series with the same label share colour, dash and marker in all panels.
        x, y: the points; ``None`` in ``y`` is a gap (a run that diverged, say).
        low, high: the band around ``y``; empty where there is none.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes; ``marks`` are horizontal reference lines, as (height, label)."""

    title: str
    series: tuple[Series, ...]
    marks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure as numbers; ``report`` draws it. Panels stand side by side and share the labels and scales.

    Args:
        name: unique within the experiment, letters and underscores.
        caption: one or two sentences that say what to see, and what the band is.
    """

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    panels: tuple[Panel, ...]
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"


@dataclass(frozen=True)
class Conclusion:
    """What an experiment concludes from its trials."""

    statements: tuple[Statement, ...]
    table: Table
    figures: tuple[Figure, ...]
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A conclusion with everything that is needed to judge it and to run it again.

    Args:
        experiment: its name, which is its file, its test, its page and its command-line argument.
        question, claim, refuted_by: the texts of the experiment's docstring.
        settings: every setting by name.
        seeds: the seeds that were run.
        stamp: versions, device, threads, date (ISO 8601, UTC) and the seconds that the trials took.
        command: the command that runs it again.
    """

    experiment: str
    question: str
    claim: str
    refuted_by: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    conclusion: Conclusion
    stamp: dict[str, Any]
    command: str
    references: tuple[str, ...] = field(default=())
