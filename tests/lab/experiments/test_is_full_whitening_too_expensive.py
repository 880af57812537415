"""Whitening in a tiny setting; no time is asserted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from normwise.lab.experiments import is_full_whitening_too_expensive as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.descent import looks

SETTINGS = experiment.Settings(
    widths=(16, 64), repeats=3, ranks=(16, 60, 80), rates=(0.2, 0.8), steps=30, depth=2, width=16
)


def test_the_rank_is_that_of_the_batch_less_one_for_its_mean(outcomes: Outcomes) -> None:
    for _, found in outcomes:
        narrow, same, wide = found["rank"]
        assert 8 < narrow <= 16  # a unit may be dead
        assert 40 < same <= wide <= 59


def test_all_arms_learn_and_take_some_time(outcomes: Outcomes) -> None:
    for _, found in outcomes:
        assert max(found["test"][1]) > 0.3
        assert min(found["seconds"]) > 0


@pytest.mark.parametrize("arm", ["zca", "newton"])
def test_a_network_of_another_width_is_whitened_in_groups_that_fit_it(arm: str) -> None:
    wider = replace(SETTINGS, width=24, steps=2)
    found = experiment.run(experiment.Trial(arm, 0), wider)
    assert len(found["test"]) == len(wider.rates)


def test_price_and_steps_are_judged_on_hand_made_numbers() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    at = looks(SETTINGS.steps)
    made_up = []
    for trial in trials:
        late = trial.arm == "batch_norm"
        curve = [0.96 if step >= (25 if late else 12) else 0.1 for step in at]
        seconds = [1.0, 1.0] if late else [5.0, 20.0]
        made_up.append({"validation": [curve] * 2, "test": [curve] * 2, "seconds": seconds, "rank": [16, 59, 59]})
    price, rank, *steps = experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements
    assert price.effect.value == pytest.approx(20)
    assert {price.verdict, steps[0].verdict, steps[1].verdict} == {Verdict.REPRODUCED}
    assert rank.verdict is Verdict.EXACT


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 4
    assert len(conclusion.table.rows) == 3
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[3], [3]]
