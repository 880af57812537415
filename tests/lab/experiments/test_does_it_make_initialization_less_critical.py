"""Scales of the initial weights in a tiny setting, and the invariance held exactly."""

from __future__ import annotations

import pytest

from normwise.lab.experiments import does_it_make_initialization_less_critical as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(scales=(0.01, 1.0, 30.0), rates=(0.1, 0.5), steps=60, depth=3, width=24)


def test_with_batch_norm_and_no_eps_the_scale_changes_nothing(outcomes: Outcomes) -> None:
    assert (outcomes.where(batch_norm=True).array("change") < 1e-12).all()
    assert (outcomes.where(batch_norm=False).array("change") > 1).all()


def test_the_rate_is_picked_for_each_scale_on_validation_images() -> None:
    trials = experiment.trials(SETTINGS, (0, 1))
    validation = [[0.5, 0.9], [0.9, 0.5], [0.9, 0.5]]
    test = [[1.0, 0.8], [0.8, 1.0], [0.3, 1.0]]
    made_up = Outcomes(trials, [{"validation": validation, "test": test, "change": 0.0} for _ in trials])
    narrow, wide, exact = experiment.conclude(SETTINGS, made_up).statements
    assert narrow.effect.value == wide.effect.value == pytest.approx(50)
    assert [narrow.verdict, wide.verdict] == [Verdict.CONTRADICTED, Verdict.REPRODUCED]
    assert exact.verdict is Verdict.EXACT


def test_without_batch_norm_tiny_weights_guess(outcomes: Outcomes) -> None:
    assert outcomes.where(batch_norm=False).array("test")[:, 0].max() < 0.25
    assert outcomes.where(batch_norm=True).array("test")[:, 0].max() > 0.4


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 3
    assert len(conclusion.table.rows) == 3
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2]]
