"""The result of an experiment: statements with verdicts, a table, figures as numbers, and a stamp.

Plain data without any framework, so that the terminal, the JSON file and the HTML page say the same thing.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

Scale = Literal["linear", "log"]
DIGITS = "scikit-learn's digits, 8 x 8"
EDITION = 2
"""The edition of the rules that verdicts follow from."""
TOPICS = (
    "what the layer is",
    "optimization",
    "regularization",
    "placement",
    "why it works",
    "statistics at inference",
    "batch size and alternatives",
    "drifting data",
)
"""The topics of the claims, in the order of the page."""


class Verdict(StrEnum):
    """The verdict of the numbers on a statement; it follows from them by a rule and is never written by hand.

    *Reproduced*: the interval excludes "no effect" on the claim's side, and the effect has at least the size that the
    rule asks for. *Exact*: an identity that was checked to rounding. *Not as large as required*: there is an effect on
    the claim's side without that size, or the whole interval is below it. *Not visible at this scale*: the interval is
    too wide to say. *Contradicted*: it excludes what is claimed, in the claim's own regime, in 10 seeds or more; over
    several runs, only what a publication claims is contradicted. *Not seen in this regime*: the same, where what was
    claimed was claimed for another kind of network, data or training.
    *No verdict*: the run cannot decide, and the statement says why: fewer than 5 seeds, a rate at the edge of its grid,
    or two runs that do not agree.
    """

    REPRODUCED = "reproduced"
    EXACT = "exact"
    SMALLER = "not as large as required"
    NOT_VISIBLE = "not visible at this scale"
    CONTRADICTED = "contradicted"
    ELSEWHERE = "not seen in this regime"
    OPEN = "no verdict"


class Regime(StrEnum):
    """The regime of a statement: the kind of network, data and training that the experiment has, or another kind.

    *Own*: it is made for any network, or for the kind of network, data and training that the experiment has. *Another*:
    it was made for another kind, as for convolutional networks on ImageNet.
    """

    OWN = "own"
    ANOTHER = "another"


@dataclass(frozen=True)
class Estimate:
    """A number with its spread.

    Args:
        value: the estimate (mean or median over seeds, as the statement says).
        low: lower end of the 95 % interval, in the same unit.
        high: upper end of the 95 % interval.
        n: how many seeds (pairs) stand behind it.
        unit: of ``value``, for example ``"points"``, ``"ratio"``, ``"log10"``.
        log: the interval was taken on logarithms.
        obstacle: why no verdict can rest on it, for example a rate that was picked at the edge of its grid; or empty.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str
    log: bool = field(default=False, repr=False)
    obstacle: str = field(default="", repr=False)


@dataclass(frozen=True)
class Statement:
    """One sentence that can be true or false, and what the numbers say of it.

    Args:
        text: the statement in plain words.
        effect: what was measured.
        rule: in plain words, with its thresholds.
        verdict: what the rule gave.
        published: the published number and its setting, or empty where there is none.
        says: who says so, where it is not who the experiment's other statements are from.
        regime: whether it is tried where it was made; None where nobody said, as in results of the first edition.
        tends: what the rule gives the estimate alone, without its interval; None as for ``regime``.
        p: the smallest level at which the interval would still decide, for corrections over many statements; NaN for
            identities, which are met or not.
        why: why there is no verdict; or empty.
    """

    text: str
    effect: Estimate
    rule: str
    verdict: Verdict
    published: str = ""
    says: str = ""
    regime: Regime | None = None
    tends: Verdict | None = None
    p: float = math.nan
    why: str = ""


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
    """The conclusion of an experiment from its trials."""

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
        says: whose claim it is, in a few words.
        topic: one of ``TOPICS``.
        settings: every setting by name.
        seeds: the seeds that were run.
        stamp: versions, device, threads, date (ISO 8601, UTC) and the seconds that the trials took.
        command: the command that runs it again.
        data, architecture: what it was measured on, in a few words.
        setting: the neighbouring setting that was run, or empty for the experiment's own.
        neighbours: the neighbouring settings that the experiment has.
        share: of Nadeau & Bengio's correction, test images over all others; 0 where seeds share no images.
        edition: of the rules that gave the verdicts; those of the first are no verdicts by the present rules.
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
    says: str = ""
    topic: str = ""
    data: str = ""
    architecture: str = ""
    setting: str = ""
    neighbours: tuple[str, ...] = ()
    share: float = 0.0
    edition: int = 1


def to_json(result: Result) -> str:
    """A result as JSON text; a number that is not finite becomes ``null``, which every reader of JSON understands."""
    return json.dumps(_finite(asdict(result)), indent=1, allow_nan=False)


def from_json(text: str) -> Result:
    """The result that ``to_json`` wrote; a ``null`` where a number is due becomes NaN.

    Raises:
        ValueError: the text is not JSON.
        KeyError: a field is missing.
        TypeError: a field is of another kind.
    """
    return cast(Result, _build(Result, json.loads(text)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # a number of NumPy's, which is not imported for this
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _build(kind: Any, value: Any) -> Any:
    """Make the value of a type annotation from what JSON gave, so that a new field needs no new code here."""
    if is_dataclass(kind):
        hints, own = get_type_hints(kind), fields(kind)
        given = [each for each in own if each.name in value or each.default is each.default_factory is MISSING]
        return cast(type, kind)(**{each.name: _build(hints[each.name], value[each.name]) for each in given})
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_build(each, item) for each, item in zip(kinds, value, strict=True))
    if get_origin(kind) is types.UnionType:  # float | None, a gap in a line
        return None if value is None else _build(get_args(kind)[0], value)
    if kind is float:
        return math.nan if value is None else float(value)
    return kind(value) if kind in (Verdict, Regime) else value
