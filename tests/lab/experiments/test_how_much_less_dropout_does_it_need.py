"""Strengths of dropout in a tiny setting, and which one is best on hand-made numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normwise.lab.experiments import how_much_less_dropout_does_it_need as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(dropouts=(0.0, 0.1, 0.5), rates=(0.1, 0.3), steps=20, width=16)


def made_up(best_of_plain: int, best_of_normalized: int = 0, settings: experiment.Settings = SETTINGS) -> Outcomes:
    """Dropout is best at one place for the plain network, and at another, or at none, with batch normalization."""
    trials, found = experiment.trials(settings, range(5)), []
    for trial in trials:
        validation = np.full((len(settings.dropouts), len(settings.rates)), 0.8)
        validation[best_of_normalized if trial.batch_norm else best_of_plain] = 0.9
        test = validation - 0.001 * trial.seed
        found.append({"validation": validation.tolist(), "test": test.tolist(), "train": test.tolist()})
    return Outcomes(trials, found)


@pytest.mark.parametrize(("place", "less"), [(0, 0.0), (1, 0.1), (2, 0.5)])
def test_how_much_less_is_the_difference_of_the_best_strengths(place: int, less: float) -> None:
    statements = experiment.conclude(SETTINGS, made_up(place)).statements
    weaker = statements[0]
    assert weaker.effect.value == pytest.approx(less)
    assert weaker.verdict is (Verdict.REPRODUCED if less else Verdict.SMALLER)
    assert statements[1].verdict is Verdict.REPRODUCED


@pytest.mark.parametrize("best", [0, 1, 2])
def test_a_strength_is_not_compared_with_itself(best: int) -> None:
    settings = replace(SETTINGS, rates=(0.1, 0.3, 1.0))  # the rate in the middle is no edge
    statements = experiment.conclude(settings, made_up(0, best, settings)).statements
    costs = [each for each in statements if "less accurate on test images" in each.text]
    assert len(costs) == 2
    for each in costs:
        assert each.effect.obstacle == (experiment.ITSELF if best == 2 else "")
        assert each.verdict is (Verdict.SMALLER if best == 2 else Verdict.REPRODUCED)


def test_of_equally_good_strengths_the_mean_counts() -> None:
    trials = experiment.trials(SETTINGS, range(2))
    scores = [[0.9, 0.9], [0.85, 0.85], [0.895, 0.895]]
    made = Outcomes(trials, [{"validation": scores, "test": scores, "train": scores} for _ in trials])
    arms = experiment.GRID.arms(SETTINGS, made).where(task="few", batch_norm=False)
    assert experiment.best_strengths(arms).tolist() == [0.25, 0.25]


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 12
    assert len(conclusion.table.rows) == 12
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2, 2]]
