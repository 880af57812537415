"""The shift of the variance in a tiny setting."""

from __future__ import annotations

from normwise.lab.experiments import do_dropout_and_it_disagree as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(dropouts=(0.0, 0.5), rates=(0.1, 0.2), steps=80, depth=3, width=32)


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
