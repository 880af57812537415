"""Every rule reaches every verdict, and its edges are where its words say."""

from __future__ import annotations

import math

import pytest

from normwise.lab.results import Estimate, Verdict
from normwise.lab.verdict import AtLeast, AtMost, Within, judge

HOLDS, NOT, UNDECIDED = Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.UNDECIDED


def estimate(low: float, value: float, high: float, unit: str = "points") -> Estimate:
    return Estimate(value, low, high, 5, unit)


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (2.0, 3.0, 4.0, HOLDS),  # large, and the interval is on the claim's side
        (0.1, 2.0, 4.0, HOLDS),  # exactly as large as asked for
        (0.1, 1.9, 4.0, UNDECIDED),  # there, but perhaps too small
        (-0.1, 2.5, 5.0, UNDECIDED),  # large, but perhaps nothing
        (0.0, 2.5, 5.0, UNDECIDED),  # touches nothing
        (0.5, 1.0, 1.9, NOT),  # there, and certainly too small
        (-3.0, -2.0, -1.0, NOT),  # the other way round
        (-1.0, 0.0, 1.0, NOT),  # none, or too small in any case
        (-1.0, 1.0, 2.0, UNDECIDED),  # reaches the size
        (math.nan, math.nan, math.nan, UNDECIDED),
    ],
)
def test_at_least(low: float, value: float, high: float, verdict: Verdict) -> None:
    assert AtLeast(2.0).verdict(estimate(low, value, high)) is verdict
    # the mirror image has the mirrored verdict
    assert AtMost(-2.0, nothing=0.0).verdict(estimate(-high, -value, -low)) is verdict


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (-0.5, 0.0, 0.5, HOLDS),
        (0.2, 0.5, 0.9, HOLDS),  # excludes 0, and is small all the same
        (-3.0, 0.0, 3.0, UNDECIDED),  # contains 0, which proves nothing
        (0.5, 0.9, 1.5, UNDECIDED),
        (1.1, 2.0, 3.0, NOT),
        (-3.0, -2.0, -1.1, NOT),
        (math.nan, math.nan, math.nan, UNDECIDED),
    ],
)
def test_within(low: float, value: float, high: float, verdict: Verdict) -> None:
    assert Within(-1.0, 1.0).verdict(estimate(low, value, high)) is verdict


def test_the_words_hold_the_threshold() -> None:
    found = judge("It is more.", estimate(2.0, 3.0, 4.0), AtLeast(0.5), "1 point")
    assert found.verdict is HOLDS
    assert found.published == "1 point"
    assert found.counts_as_holding == (
        "holds: at least 0.5 points, and the 95 % interval is above 0; "
        "does not hold: the whole interval is below 0.5 points"
    )
    assert judge("", estimate(1, 1, 1, "ratio"), AtMost(1e-10, nothing=1.0)).counts_as_holding == (
        "holds: at most 1e-10, and the 95 % interval is below 1; does not hold: the whole interval is above 1e-10"
    )
    assert judge("", estimate(0, 0, 0), Within(-1.0, 1.0)).counts_as_holding == (
        "holds: the 95 % interval lies between -1 and 1 points; does not hold: it lies wholly outside"
    )
