"""Trials, arms, their words and their rates from one grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from normwise.lab.design import WITH_AND_WITHOUT, Arms, Grid, gap, obstacle
from normwise.lab.design.arms import at_an_edge
from normwise.lab.outcomes import Outcomes


@dataclass(frozen=True)
class Settings:
    depths: tuple[int, ...] = (3, 5)
    rates: tuple[float, ...] = (0.1, 0.5)
    scales: tuple[float, ...] = (0.01, 10.0)


@dataclass(frozen=True)
class Trial:
    depth: int
    batch_norm: bool
    seed: int


@dataclass(frozen=True)
class AtOneRate:
    batch_norm: bool
    rate: float
    seed: int


SETTINGS = Settings()
GRID = Grid(Trial, depth="depths", batch_norm=WITH_AND_WITHOUT)


def made_up(trials: list[Any], **numbers: Any) -> Outcomes:
    """Each number is a function of the trial."""
    return Outcomes(trials, [{name: number(trial) for name, number in numbers.items()} for trial in trials])


def arms() -> Arms:
    """Validation prefers the second rate with batch norm and the first without; test says the opposite."""
    trials = GRID.trials(SETTINGS, (0, 1))
    outcomes = made_up(
        trials,
        validation=lambda trial: [0.8, 0.9] if trial.batch_norm else [0.9, 0.8],
        test=lambda trial: [0.99, 0.5 + 0.01 * trial.depth + 0.1 * trial.seed] if trial.batch_norm else [0.4, 0.99],
    )
    return GRID.arms(SETTINGS, outcomes)


def test_trials_are_every_combination_and_the_first_axis_changes_slowest() -> None:
    found = [(trial.depth, trial.batch_norm, trial.seed) for trial in GRID.trials(SETTINGS, (0, 1))]
    assert found == [(d, b, s) for d in (3, 5) for b in (True, False) for s in (0, 1)]


def test_the_largest_can_be_begun_first_and_is_still_shown_in_order() -> None:
    grid = Grid(Trial, depth="depths", batch_norm=WITH_AND_WITHOUT, largest_first="depth")
    trials = grid.trials(SETTINGS, (0, 1))
    assert [trial.depth for trial in trials] == [5] * 4 + [3] * 4
    found = grid.arms(SETTINGS, made_up(trials, validation=lambda _: [1.0, 0.0]))
    assert [arm["depth"] for arm in found] == ["3", "3", "5", "5"]


def test_an_arm_answers_at_the_rate_that_is_best_on_validation_images() -> None:
    found = arms()
    assert [found[3, True].rate, found[3, False].rate] == ["0.5, edge", "0.1, edge"]
    assert found[3, True].numbers().tolist() == pytest.approx([0.53, 0.63])
    assert found[5, True].points().tolist() == pytest.approx([55.0, 65.0])
    assert found[5, False].percent(1) == "40.0 [40.0, 40.0]"
    assert len(found[5, True]) == found.seeds == 2
    assert gap(found[5, True], found[3, True]).value == pytest.approx(2.0)


def test_the_first_of_equally_good_rates_is_picked() -> None:
    outcomes = made_up(GRID.trials(SETTINGS, (0, 1)), validation=lambda _: [0.9, 0.9])
    assert {arm.best for arm in GRID.arms(SETTINGS, outcomes)} == {0}


@pytest.mark.parametrize(
    ("validation", "rate", "edge"),
    [
        ([0.5, 0.9, 0.8], "0.3", ""),
        ([0.9, 0.5, 0.8], "0.1, edge", "the best rate lies at the edge of its grid (3, with batch norm)"),
        ([0.5, 0.8, 0.9], "1, edge", "the best rate lies at the edge of its grid (3, with batch norm)"),
        ([0.5, 0.899, 0.9], "0.3", ""),  # as good as the edge
    ],
)
def test_a_rate_at_the_edge_bears_no_verdict(validation: list[float], rate: str, edge: str) -> None:
    settings = Settings(rates=(0.1, 0.3, 1.0))
    trials = GRID.trials(settings, (0, 1))
    outcomes = made_up(trials, validation=lambda _: validation, test=lambda _: [0.1, 0.2, 0.3])
    found = GRID.arms(settings, outcomes)
    assert (found[3, True].rate, found[3, True].obstacle) == (rate, edge)
    assert gap(found[3, True], found[5, False]).obstacle == edge
    given = GRID.arms(settings, outcomes, at=2)[3, True]
    assert (given.rate, given.obstacle) == ("1", "")


@pytest.mark.parametrize("validation", [[0.1, 0.12, 0.19], [0.19, 0.12, 0.1]])
def test_chance_picks_no_rate_and_is_evidence_only_against_what_learns(validation: list[float]) -> None:
    settings = Settings(rates=(0.1, 0.3, 1.0))
    outcomes = made_up(
        GRID.trials(settings, (0, 1)),
        validation=lambda trial: [0.5, 0.9, 0.8] if trial.depth == 3 else validation,
        test=lambda _: [0.1, 0.2, 0.3],
    )
    found = GRID.arms(settings, outcomes)
    learns, guesses, too = found[3, True], found[5, True], found[5, False]
    assert (guesses.rate, guesses.obstacle) == ("0.3, did not train", "")
    assert gap(learns, guesses).obstacle == ""
    assert gap(guesses, too).obstacle == "no network learns at any rate (5, with batch norm, without)"
    assert obstacle(guesses) == "no network learns at any rate (5, with batch norm)"


def test_rates_that_each_seed_picks_for_itself_are_at_an_edge_in_half_of_them_or_are_not() -> None:
    rates = (0.1, 0.3, 1.0, 3.0)
    assert at_an_edge(np.array([0, 3, 1, 2]), rates) == "the best rate lies at the edge of its grid"
    assert at_an_edge(np.array([0, 2, 1, 2]), rates) == ""
    assert at_an_edge(np.array([0, 0]), (0.1,)) == ""  # nothing was picked


def test_arms_with_unequal_numbers_of_rates_are_not_compared() -> None:
    one = arms()[3, True]
    settings = Settings(rates=(0.1, 0.3, 1.0))
    trials = GRID.trials(settings, (0, 1))
    outcomes = made_up(trials, validation=lambda _: [0.5, 0.9, 0.5], test=lambda _: [1.0, 1.0, 1.0])
    sentence = r"^arms are compared that had \[2, 3\] rates to choose from: give all the same number\.$"
    with pytest.raises(ValueError, match=sentence):
        gap(one, GRID.arms(settings, outcomes)[3, True])


def test_another_way_to_pick_the_rate_can_be_given() -> None:
    outcomes = made_up(GRID.trials(SETTINGS, (0, 1)), loss=lambda _: [3.0, 1.0])
    found = GRID.arms(SETTINGS, outcomes, choose=lambda arm: int(arm.array("loss").mean(axis=0).argmin()))
    assert {arm.rate for arm in found} == {"0.5, edge"}


def test_words_come_from_the_grid_and_groups_know_what_they_have_in_common() -> None:
    first, second = arms().by("depth")
    assert [arm["batch_norm"] for arm in first] == ["with batch norm", "without"]
    assert (first.words["depth"], second.words["depth"]) == ("3", "5")
    assert "batch_norm" not in first.words
    assert second[True] is not first[True]
    assert second[True].values == {"depth": 5, "batch_norm": True}
    assert [arm["depth"] for arm in arms().where(batch_norm=False)] == ["3", "5"]
    assert len(arms().where(batch_norm=False)) == 2


def test_rates_can_be_trials_of_their_own() -> None:
    grid = Grid(AtOneRate, batch_norm=WITH_AND_WITHOUT, rate="rates")
    trials = grid.trials(SETTINGS, (0, 1))
    assert len(trials) == 8
    outcomes = made_up(trials, validation=lambda t: t.rate, test=lambda t: [t.rate + t.seed, 10 * t.batch_norm])
    found = grid.arms(SETTINGS, outcomes)
    assert [arm.rate for arm in found] == ["0.5, edge", "0.5, edge"]
    assert found[True].array("test").shape == (2, 2, 2)  # seeds, rates, what a trial measured
    assert found[True].numbers().tolist() == [[0.5, 10.0], [1.5, 10.0]]
    assert found[False].array("validation").tolist() == [[0.1, 0.5], [0.1, 0.5]]


def test_what_is_trained_side_by_side_in_a_trial_is_an_axis_too() -> None:
    grid = Grid(Trial, depth="depths", batch_norm=WITH_AND_WITHOUT, inside={"scale": "scales"})
    trials = grid.trials(SETTINGS, (0, 1))
    assert len(trials) == 8
    outcomes = made_up(
        trials,
        validation=lambda _: [[0.9, 0.1], [0.1, 0.9]],  # scales, rates
        test=lambda trial: [[1.0, 2.0], [3.0, 4.0 + trial.depth]],
    )
    found = grid.arms(SETTINGS, outcomes)
    assert [arm["scale"] for arm in found.where(depth=3, batch_norm=True)] == ["0.01", "10"]
    assert found[3, True, 0.01].numbers().tolist() == [1.0, 1.0]
    assert found[5, True, 10.0].numbers().tolist() == [9.0, 9.0]
    assert np.array_equal(found[5, True, 10.0].array("test"), [[3.0, 9.0], [3.0, 9.0]])


def test_one_trial_for_each_seed_is_a_grid_without_axes() -> None:
    @dataclass(frozen=True)
    class Alone:
        seed: int

    assert Grid(Alone).trials(SETTINGS, (4, 7)) == [Alone(4), Alone(7)]
