"""What a comparison found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from normwise.errors import NormwiseError
from normwise.lab.comparison.arms import Arm
from normwise.lab.results import Estimate


class NothingTrained(NormwiseError):
    """Every arm's loss became infinite or NaN."""


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
    """

    arm: Arm
    statistics: str
    validation: dict[str, float | None]
    test: dict[str, Estimate | None]
    against_running: dict[str, Estimate | None]


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Args:
        recommendation: one sentence.
        evidence: sentences behind it.
        visible: whether a difference is.
        effect: the best other arm minus the best of the model as it was built, on test rows, paired by seed.
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

    recommendation: str
    evidence: tuple[str, ...]
    visible: bool
    effect: Estimate
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
