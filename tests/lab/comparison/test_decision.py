"""The rules on estimates: every one can come out each way, at its edges too."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from normwise.lab.comparison.arms import Arm
from normwise.lab.comparison.decision import decide, margin_of, standing
from normwise.lab.comparison.found import Decision, Finalist, Needed
from normwise.lab.comparison.recommendation import duration, evidence, number, recommend
from normwise.lab.results import Estimate


def points(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 5, "points")


LEARNED, CHANCE = points(20, 40), points(-3, 5)


def finalist(name: str, above: Estimate | None = LEARNED) -> Finalist:
    test = None if above is None else Estimate(80.0, 70.0, 90.0, 5, "%")
    return Finalist(Arm(name, "as built", 0.1, 32), "none", {"none": 80.0}, {"none": test}, {}, above)


@pytest.mark.parametrize(
    ("low", "high", "word", "decision"),
    [
        (-0.25, 23.0, "undecided", Decision.UNDECIDED),  # what was once called no difference
        (-0.7, 0.5, "equivalent", Decision.EQUIVALENT),
        (0.1, 0.9, "equivalent", Decision.EQUIVALENT),
        (0.0, 0.0, "equivalent", Decision.EQUIVALENT),
        (0.1, 1.0, "better", Decision.DIFFERENT),  # the margin itself is not within
        (-1.0, 0.5, "undecided", Decision.UNDECIDED),
        (0.0, 3.0, "undecided", Decision.UNDECIDED),  # 0 itself is not left out
        (2.0, 5.0, "better", Decision.DIFFERENT),
        (-5.0, -0.2, "worse", Decision.DIFFERENT),
    ],
)
def test_an_interval_has_one_word_and_one_decision(low: float, high: float, word: str, decision: Decision) -> None:
    assert standing(points(low, high), 1.0) == word
    assert decide(points(low, high), finalist("group"), finalist("batch"), 1.0) is decision


@pytest.mark.parametrize("effect", [points(2, 5), points(-0.5, 0.5), points(-1, 20)])
def test_chance_and_failure_come_before_any_difference(effect: Estimate) -> None:
    good, at_chance, failed = finalist("group"), finalist("batch", CHANCE), finalist("batch", None)
    assert decide(effect, finalist("group", CHANCE), at_chance, 1.0) is Decision.AT_CHANCE
    assert decide(effect, good, at_chance, 1.0) is not Decision.AT_CHANCE
    assert decide(effect, good, failed, 1.0) is Decision.FAILED
    assert decide(effect, failed, at_chance, 1.0) is Decision.FAILED


def test_one_seed_is_undecided_whatever_it_scored() -> None:
    nothing = Estimate(math.nan, math.nan, math.nan, 1, "points")
    best, own = finalist("group", nothing), finalist("batch", nothing)
    assert decide(nothing, best, own, 1.0) is Decision.UNDECIDED
    said = recommend(Decision.UNDECIDED, nothing, best, own, margin=1.0, constant=10.0, needed=None)
    assert said == (
        "Undecided: group at rate 0.1, batches of 32 against batch at rate 0.1, batches of 32: one seed has no "
        "interval; give --seeds 5 or more."
    )


def test_statistics_that_are_better_recalibrated_are_said_whatever_is_decided() -> None:
    own = replace(finalist("batch"), statistics="recalibrated")
    effect = points(-2, 20)
    for decision, ending in (
        (Decision.UNDECIDED, "; in any case, recalibrate the batch norms' statistics after training."),
        (Decision.EQUIVALENT, "; keep the model's batch norm as it is, and recalibrate its statistics after training."),
    ):
        said = recommend(decision, effect, finalist("group"), own, margin=1.0, constant=10.0, needed=Needed(rows=2.0))
        assert said.endswith(ending)
        assert "recalibrate" not in recommend(
            decision, effect, finalist("group"), finalist("batch"), margin=1.0, constant=10.0, needed=Needed(rows=2.0)
        )


def test_the_margin_of_values_is_a_share_of_the_error_of_their_mean() -> None:
    assert margin_of(0.5, 10.0, "points") == 0.5
    assert margin_of(0.5, -200.0, "mean square") == 1.0
    assert standing(Estimate(0.5, 0.2, 0.9, 5, "mean square"), margin_of(0.5, -200.0, "mean square")) == "equivalent"


def test_the_evidence_says_what_chance_is_and_who_is_no_better() -> None:
    lines = evidence(
        points(-1, 20),
        (finalist("group"), finalist("none", CHANCE)),
        arms=7,
        steps=40,
        rows=100,
        margin=1.0,
        constant=10.62,
    )
    assert lines[2:] == [
        "Chance level: always answering the most common class, which is right for 10.62 % of the test rows.",
        "Differences within 1 point count as none (--margin).",
        "Right answers on the test rows with each kind of statistics at inference; a star marks the kind that was "
        "chosen on validation rows:",
        "* group at rate 0.1, batches of 32, no statistics of its own: 80 % [70, 90]",
        "* none at rate 0.1, batches of 32, no statistics of its own: 80 % [70, 90], not visibly better than chance",
    ]


def test_errors_are_shown_the_other_way_round_and_zero_has_no_sign() -> None:
    assert number(Estimate(0.0, -1.0, 2.0, 5, "mean square")) == "+0 of mean square error [-2, +1]"
    assert number(Estimate(-3.0, -4.0, -2.0, 5, "mean square"), sign=False) == "3 mean square error [2, 4]"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1s"), (599.5, "600s"), (600.0, "600s"), (600.1, "11m"), (7200.0, "120m"), (7201.0, "2.1h"), (9e4, "25h")],
)
def test_a_budget_is_never_rounded_down(seconds: float, words: str) -> None:
    assert duration(seconds) == words
