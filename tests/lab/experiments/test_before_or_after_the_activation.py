"""Both orders in a tiny setting, and the verdicts on hand-made numbers."""

from __future__ import annotations

import pytest

from normwise.lab.experiments import before_or_after_the_activation as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(activations=("relu", "sigmoid"), rates=(0.1, 0.5), steps=80, depth=2, width=24)


def test_both_orders_learn_and_are_not_the_same(outcomes: Outcomes) -> None:
    relu = outcomes.where(activation="relu")
    before, after = (relu.where(after=order).array("test") for order in (False, True))
    assert min(before.max(), after.max()) > 0.7
    assert (before != after).any()


def test_each_order_is_judged_at_its_own_best_rate() -> None:
    trials = experiment.trials(SETTINGS, range(4))
    made_up = []
    for trial in trials:
        best = 1 if trial.after else 0
        test = [0.5, 0.5]
        test[best] = 0.9 + 0.05 * trial.after + 0.001 * trial.seed
        made_up.append({"validation": [0.9 - 0.4 * best, 0.5 + 0.4 * best], "test": test})
    before, after, *_ = experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements
    assert before.effect.value == pytest.approx(-5)
    assert [before.verdict, after.verdict] == [Verdict.CONTRADICTED, Verdict.REPRODUCED]


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 4
    assert len(conclusion.table.rows) == 6
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2, 2]]
