"""The valley: what is known exactly of it, and that the experiment finds it."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.experiments import does_feature_scaling_round_the_valley as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(shown=10)


def test_steps_are_those_that_gradient_descent_takes() -> None:
    valley = experiment.Valley(np.array([[2.0, 0.5], [0.5, 0.7]]), np.array([1.0, -3.0]))
    for rate in (0.05, 0.3, 0.8):
        steps = valley.steps(rate)
        above = [valley.above(w) for w in valley.path(rate, steps)]
        assert above[steps] <= experiment.END * above[0] < above[steps - 1]


def test_a_round_valley_takes_one_step() -> None:
    valley = experiment.Valley(3 * np.eye(2), np.array([1.0, 2.0]))
    assert valley.condition == pytest.approx(1)
    assert valley.best()[1] == 1
    assert valley.degrees() == pytest.approx(0, abs=1e-5)


def test_the_condition_number_of_standardized_features_is_their_correlation_s(outcomes: Outcomes) -> None:
    correlation = np.abs(outcomes.array("correlation"))
    assert outcomes.array("condition_standardized") == pytest.approx((1 + correlation) / (1 - correlation))


def test_the_layer_takes_the_path_of_standardized_features(outcomes: Outcomes) -> None:
    assert (outcomes.array("layer") < 1e-12).all()


def test_verdicts_that_follow_from_the_scales(conclusion: Conclusion) -> None:
    for statement in conclusion.statements:
        if "batch-norm layer" in statement.text:
            assert statement.verdict is Verdict.EXACT
        if "standardized: the condition" in statement.text:
            assert statement.verdict is Verdict.REPRODUCED


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 14
    assert len(conclusion.table.rows) == 6
    assert [len(figure.panels) for figure in conclusion.figures] == [3, 3]
    for figure in conclusion.figures:
        for panel in figure.panels:
            *contours, path = panel.series
            assert len(path.x) == SETTINGS.shown + 1
            assert path.y[0] is not None
            assert path.x[0] ** 2 + path.y[0] ** 2 == pytest.approx(1)
            for contour in contours:
                inside = [y for y in contour.y if y is not None]
                assert inside
                assert max(map(abs, inside)) <= 1.5
