"""Every rule reaches every verdict, and its edges are where its words say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from normwise.lab.intervals import largest, mean, probability
from normwise.lab.results import Estimate, Verdict
from normwise.lab.verdict import AtLeast, AtMost, Exact, Reaches, StaysBelow, Within, judge

REPRODUCED, SMALLER = Verdict.REPRODUCED, Verdict.SMALLER
NOT_VISIBLE, CONTRADICTED = Verdict.NOT_VISIBLE, Verdict.CONTRADICTED


def estimate(low: float, value: float, high: float, unit: str = "points") -> Estimate:
    return Estimate(value, low, high, 5, unit)


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (2.0, 3.0, 4.0, REPRODUCED),  # large, and the interval is on the claim's side
        (0.1, 2.0, 4.0, REPRODUCED),  # exactly as large as asked for
        (0.1, 1.9, 4.0, SMALLER),  # there, and perhaps large enough
        (0.5, 1.0, 1.9, SMALLER),  # there, and certainly too small
        (-0.1, 2.5, 5.0, NOT_VISIBLE),  # large, but perhaps nothing
        (0.0, 2.5, 5.0, NOT_VISIBLE),  # touches nothing
        (-1.0, 0.0, 3.0, NOT_VISIBLE),
        (-1.0, 0.0, 1.0, SMALLER),  # perhaps nothing, and certainly too small
        (-1.0, -0.5, 0.0, SMALLER),  # touches nothing from below
        (-3.0, -2.0, -1.0, CONTRADICTED),  # the other way round
        (-0.2, -0.1, -0.01, CONTRADICTED),  # however little
        (math.nan, math.nan, math.nan, NOT_VISIBLE),
    ],
)
def test_at_least(low: float, value: float, high: float, verdict: Verdict) -> None:
    assert AtLeast(2.0).verdict(estimate(low, value, high)) is verdict
    # the mirror image has the mirrored verdict
    assert AtMost(-2.0).verdict(estimate(-high, -value, -low)) is verdict


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (5.0, 6.0, 7.0, REPRODUCED),  # exactly as large at its low end
        (4.9, 6.0, 7.0, NOT_VISIBLE),
        (2.0, 3.0, 4.9, CONTRADICTED),  # there, and certainly less than was claimed
        (-2.0, -1.0, 0.0, CONTRADICTED),
        (math.nan, math.nan, math.nan, NOT_VISIBLE),
    ],
)
def test_a_size_that_the_statement_names_is_refuted_by_less(
    low: float, value: float, high: float, verdict: Verdict
) -> None:
    assert Reaches(5.0).verdict(estimate(low, value, high)) is verdict
    assert StaysBelow(-5.0).verdict(estimate(-high, -value, -low)) is verdict


def test_the_level_of_a_rule_is_that_at_which_its_interval_would_just_decide() -> None:
    found = mean(np.array([1.0, 2.0, 3.0, 2.5]), "points")
    assert AtLeast(1.0).p(found) == AtMost(-1.0).p(found) == Reaches(0.0).p(found) == probability(found, 0.0)
    assert Within(0.0, 3.0).p(found) == max(probability(found, 0.0), probability(found, 3.0))
    assert Within(5.0, 9.0).p(found) == probability(found, 5.0)
    assert math.isnan(Exact(0.0).p(found))


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (-0.5, 0.0, 0.5, REPRODUCED),
        (0.2, 0.5, 0.9, REPRODUCED),  # excludes 0, and is small all the same
        (-3.0, 0.0, 3.0, NOT_VISIBLE),  # contains 0, which proves nothing
        (0.5, 0.9, 1.5, NOT_VISIBLE),
        (1.1, 2.0, 3.0, CONTRADICTED),
        (-3.0, -2.0, -1.1, CONTRADICTED),
        (math.nan, math.nan, math.nan, NOT_VISIBLE),
    ],
)
def test_within(low: float, value: float, high: float, verdict: Verdict) -> None:
    assert Within(-1.0, 1.0).verdict(estimate(low, value, high)) is verdict


@pytest.mark.parametrize(
    ("deviations", "verdict"),
    [
        ([0.0, 1e-16], Verdict.EXACT),
        ([1e-12, 0.0], Verdict.EXACT),
        ([0.0, 0.0, 2e-12], CONTRADICTED),  # one seed suffices
        ([0.0, math.nan], CONTRADICTED),
        ([0.0, math.inf], CONTRADICTED),
    ],
)
def test_an_identity_is_met_by_every_seed_or_is_none(deviations: list[float], verdict: Verdict) -> None:
    assert Exact(1e-12).verdict(largest(np.array(deviations), "relative")) is verdict


def test_a_lower_bound_that_is_nothing_itself_has_no_verdict_between() -> None:
    assert AtLeast(-1.0, nothing=-1.0).verdict(estimate(-0.9, -0.5, 0.0)) is REPRODUCED
    assert AtLeast(-1.0, nothing=-1.0).verdict(estimate(-3.0, -0.5, 2.0)) is NOT_VISIBLE


def test_the_words_hold_the_threshold() -> None:
    found = judge("It is more.", estimate(2.0, 3.0, 4.0), AtLeast(0.5), "1 point", "Somebody 2015")
    assert found.verdict is REPRODUCED
    assert (found.published, found.says, found.tends) == ("1 point", "Somebody 2015", REPRODUCED)
    assert judge("", estimate(1, 1, 1, "ratio"), Reaches(5.0)).rule == (
        "reproduced: the 95 % interval is at 5 or above; contradicted: it is below"
    )
    assert judge("", estimate(1, 1, 1, "ratio"), StaysBelow(0.2)).rule == (
        "reproduced: the 95 % interval is at 0.2 or below; contradicted: it is above"
    )
    assert found.rule == (
        "reproduced: at least 0.5 points, and the 95 % interval is above 0; contradicted: the interval is below 0"
    )
    assert judge("", estimate(1, 1, 1, "ratio"), AtMost(1e-10, nothing=1.0)).rule == (
        "reproduced: at most 1e-10, and the 95 % interval is below 1; contradicted: the interval is above 1"
    )
    assert judge("", estimate(0, 0, 0), Within(-1.0, 1.0)).rule == (
        "reproduced: the 95 % interval lies between -1 and 1 points; contradicted: it lies wholly outside"
    )
    assert judge("", estimate(0, 0, 0, "relative"), Exact(1e-12)).rule == (
        "exact: no seed deviates by more than 1e-12 relative; contradicted: one does"
    )
