"""Held statistics in a tiny setting, and their gradient in closed form."""

from __future__ import annotations

from normwise.lab.experiments import must_gradients_pass_through_the_statistics as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(steps=60, depth=2, width=16)


def test_under_the_whole_gradient_the_bias_stays_and_held_it_moves(outcomes: Outcomes) -> None:
    assert outcomes.where(held="whole").array("biases").max() < 1e-14
    for held in ("mean", "both"):
        assert outcomes.where(held=held).array("biases")[:, -1].min() > 1e-3


def test_the_bias_is_judged_as_exact(conclusion: Conclusion) -> None:
    assert conclusion.statements[0].verdict is Verdict.EXACT


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 6
    assert len(conclusion.table.rows) == 3
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[3, 3]]
