"""The rules: which of the outcomes the last comparison came to; nothing but numbers decides.

The margin of practical indifference is one point unless the user says otherwise: one answer in a hundred, or, for
values, one hundredth of the mean square error of always answering their mean, which is one point of explained variance.
The lab's own claims of "no difference" have the same margin.
"""

from __future__ import annotations

import math

from normwise.errors import NormwiseError
from normwise.lab.comparison.found import Decision, Finalist
from normwise.lab.results import Estimate

MARGIN = 1.0
"""The margin of practical indifference unless the user gives another one, in points."""


def margin_of(points: float, constant: float, unit: str) -> float:
    """The margin in the unit of the scores.

    Args:
        points: of accuracy, or of explained variance.
        constant: the score of one constant answer.
        unit: of the scores.

    Raises:
        NormwiseError: it is not above 0 and finite.

    Example:
        >>> margin_of(1.0, 10.0, "points"), margin_of(1.0, -4.0, "mean square")
        (1.0, 0.04)
    """
    if not 0 < points < math.inf:
        raise NormwiseError(f"the margin must be above 0 and finite, received {points:g}: pass for example 1.")
    return points if unit == "points" else points / 100 * abs(constant)


def visible(effect: Estimate) -> bool:
    """True if 0, which means no difference, lies outside of the interval."""
    return effect.low > 0 or effect.high < 0


def within(effect: Estimate, margin: float) -> bool:
    """True if the whole interval lies within the margin."""
    return effect.low > -margin and effect.high < margin


def standing(effect: Estimate, margin: float) -> str:
    """One word for a difference: ``"equivalent"``, ``"better"``, ``"worse"`` or ``"undecided"``."""
    if within(effect, margin):
        return "equivalent"
    if visible(effect):
        return "better" if effect.low > 0 else "worse"
    return "undecided"


def decide(effect: Estimate, best: Finalist, own: Finalist, margin: float) -> Decision:
    """The decision that follows from the last comparison.

    Args:
        effect: the best other arm minus the model as it was built.
        best: the best other arm.
        own: the model as it was built.
        margin: of practical indifference, in the unit of the effect.
    """
    if best.failed or own.failed:
        return Decision.FAILED
    if math.isnan(effect.value):  # one seed
        return Decision.UNDECIDED
    if not (best.learned or own.learned):
        return Decision.AT_CHANCE
    found = standing(effect, margin)
    return Decision(found) if found in ("equivalent", "undecided") else Decision.DIFFERENT
