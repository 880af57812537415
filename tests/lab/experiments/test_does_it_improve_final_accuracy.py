"""Final accuracies in a tiny setting, and the rule on hand-made numbers."""

from __future__ import annotations

import pytest

from normwise.lab.experiments import does_it_improve_final_accuracy as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(depths=(2,), rates=(0.1, 0.5), steps=80, width=24)


def test_both_learn(outcomes: Outcomes) -> None:
    for normalized in (False, True):
        assert (outcomes.where(batch_norm=normalized).array("test").max(axis=1) > 0.6).all()


def test_the_gain_is_that_at_the_best_rate_on_validation_images() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    made_up = []
    for trial in trials:
        validation = [0.9, 0.8] if trial.batch_norm else [0.8, 0.9]
        made_up.append({"validation": validation, "test": [0.95, 0.94 - 0.001 * trial.seed], "train": [1.0, 1.0]})
    (gain,) = experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements
    assert gain.effect.value == pytest.approx(1.1)
    assert gain.verdict is Verdict.REPRODUCED


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 1
    assert len(conclusion.table.rows) == 2
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2]]
