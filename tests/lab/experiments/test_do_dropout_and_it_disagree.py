"""The shift of the variance in a tiny setting."""

from __future__ import annotations

import pytest

from normwise.lab.data import digits
from normwise.lab.experiments import do_dropout_and_it_disagree as experiment
from normwise.lab.models import he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.stack import Stack, batch_norm
from normwise.lab.stack_training import train_stack

SETTINGS = experiment.Settings(dropouts=(0.0, 0.5), rates=(0.1, 0.2), steps=80, depth=3, width=32)


def stack(dropout: float) -> Stack:
    made = Stack(
        1, depth=3, width=32, activation="relu", normalize=batch_norm, std=he, seed=0, dropout=(dropout,)
    )  # fmt: skip
    train_stack(made, digits(0).train, rates=(0.1,), steps=40, batch=60, seed=0)
    return made


def test_estimated_anew_the_variances_agree_exactly() -> None:
    made, train = stack(0.5), digits(0).train
    (before,) = experiment.shifts(made, train)
    experiment.estimate_anew(made, train)
    (after,) = experiment.shifts(made, train)
    assert before[-1] > 1.2
    assert after == pytest.approx([1.0] * 3, abs=1e-5)


def test_dropout_shifts_the_variance_and_the_more_the_deeper(outcomes: Outcomes) -> None:
    calm, shaken = outcomes.where(last_only=False).array("shift").mean(axis=2).transpose(1, 0, 2)
    assert (shaken[:, 1:] > calm[:, 1:]).all()
    assert outcomes.where(last_only=True).array("shift")[:, 1].mean(axis=1).max() < shaken[:, 1:].max()


def test_the_shift_is_reproduced(conclusion: Conclusion) -> None:
    assert conclusion.statements[0].effect.value > 1.1
    assert conclusion.statements[0].verdict is not Verdict.CONTRADICTED


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == 4
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2, 2], [2, 2]]
