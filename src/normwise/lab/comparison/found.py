"""The findings of a comparison, as plain data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from normwise.errors import NormwiseError
from normwise.lab.comparison.arms import Arm
from normwise.lab.results import Estimate


class NothingTrained(NormwiseError):
    """Every arm's loss became infinite or NaN."""


class Decision(StrEnum):
    """The decision of the last comparison.

    *Different*: the interval leaves out 0, and the difference may be larger than the margin. *Equivalent*: the whole
    interval lies within the margin of practical indifference. *Undecided*: neither, the interval is too wide; or there
    is one seed. *At chance*: neither model is visibly better than one constant answer. *Failed*: a model has seeds
    whose loss became infinite or NaN, or that could not be trained.
    """

    DIFFERENT = "different"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"
    AT_CHANCE = "at chance"
    FAILED = "failed"


@dataclass(frozen=True)
class Needed:
    """The seeds with their budget, or the rows, that it would take to decide, if the difference stays what it is.

    Args:
        seeds: paired seeds; None where no number of them is enough, or more than can be paid for.
        seconds: the budget with which they can be trained; None likewise.
        times: that budget over the one that was given; None likewise.
        rows: times as many rows, where no number of seeds is enough; None elsewhere.
    """

    seeds: int | None = None
    seconds: float | None = None
    times: float | None = None
    rows: float | None = None


@dataclass(frozen=True)
class Round:
    """One round of successive halving: every arm with its validation score, None where nothing was learned."""

    steps: int
    scores: tuple[tuple[Arm, float | None], ...]


@dataclass(frozen=True)
class Finalist:
    """One of the two that were compared last.

    Args:
        arm: what it is.
        statistics: of inference, chosen on validation rows.
        validation: inference statistics -> mean score on validation rows, over seeds.
        test: the same on test rows.
        against_running: inference statistics -> what they change on test rows against running averages.
        above_constant: what the chosen ones are better than one constant answer on test rows; None if not finite.
        error: why a seed could not be trained, or nothing.
    """

    arm: Arm
    statistics: str
    validation: dict[str, float | None]
    test: dict[str, Estimate | None]
    against_running: dict[str, Estimate | None]
    above_constant: Estimate | None
    error: str = ""

    @property
    def failed(self) -> bool:
        """True if a seed has no finite scores."""
        return self.above_constant is None

    @property
    def learned(self) -> bool:
        """True if it is visibly better than one constant answer."""
        return self.above_constant is not None and self.above_constant.low > 0


@dataclass(frozen=True)
class Comparison:
    """The findings of a comparison.

    A higher score is better: percent of right answers, or minus the mean square error.

    Args:
        decision: what it came to.
        recommendation: the same in words.
        evidence: sentences behind it.
        visible: whether the interval of the difference leaves out 0.
        effect: the best other arm minus the best of the model as it was built, on test rows, paired by seed.
        margin: differences within it, on either side, do not matter; in the unit of ``effect``.
        constant: score of one constant answer, the most common class or the mean of the targets.
        needed: what it would take to decide; None where it is decided, or nobody can tell.
        best: the best other arm, on validation rows.
        own: the best arm of the model as it was built.
        arms: how many were compared.
        steps: of the last trainings.
        seeds: of them.
        rounds: of the last series of rounds.
        remarks: what was not compared, and why.
        seconds: what all trials took, those of earlier runs included.
        kept: how many trials an earlier run had finished.
        framework: with its version.
    """

    decision: Decision
    recommendation: str
    evidence: tuple[str, ...]
    visible: bool
    effect: Estimate
    margin: float
    constant: float
    needed: Needed | None
    best: Finalist
    own: Finalist
    arms: int
    steps: int
    seeds: int
    rounds: tuple[Round, ...]
    remarks: tuple[str, ...]
    seconds: float
    kept: int
    framework: str

    def to_json(self) -> str:
        """The comparison as JSON text; a number that is not finite is ``null``."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
