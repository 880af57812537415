"""The valley: what is known exactly of it, and that the experiment finds it."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.experiments import does_feature_scaling_round_the_valley as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(shown=10)


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
