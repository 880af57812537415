"""The factor m/(m-1), with few draws."""

from __future__ import annotations

import pytest

from normwise.lab.experiments import is_the_batch_variance_too_small as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(sizes=(2, 8), samples=20_000, units=16)
LEVELS = (0.5, 0.875, 1.0, 1.2)


def test_the_factor_is_exactly_what_separates_the_two(outcomes: Outcomes) -> None:
    for trial, found in outcomes:
        assert found["corrected"] == pytest.approx(found["biased"] * trial.size / (trial.size - 1), rel=1e-12)


def test_random_batches_are_right_with_the_factor_and_joined(outcomes: Outcomes) -> None:
    for size in SETTINGS.sizes:
        arm = outcomes.where(kind="random", size=size)
        assert arm.array("biased") == pytest.approx((size - 1) / size, rel=0.03)
        assert arm.array("joint") == pytest.approx(1, rel=0.03)


def test_batches_of_one_class_are_right_only_when_joined(outcomes: Outcomes) -> None:
    arm = outcomes.where(kind="class")
    assert (arm.array("corrected") < 0.85).all()
    assert arm.array("joint") == pytest.approx(1, rel=0.05)


def test_verdicts_and_what_is_shown(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert conclusion.statements[3].verdict is Verdict.REPRODUCED
    assert len(conclusion.table.rows) == 3
    ((panel,),) = (figure.panels for figure in conclusion.figures)
    assert len(panel.series) == 3
