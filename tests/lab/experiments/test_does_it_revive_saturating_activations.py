"""Sigmoids in a tiny setting."""

from __future__ import annotations

from normwise.lab.experiments import does_it_revive_saturating_activations as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(depths=(5,), activations=("sigmoid", "relu"), rates=(0.5, 2.0), steps=120, width=32)


def test_sigmoids_guess_without_batch_norm_and_learn_with_it(outcomes: Outcomes) -> None:
    sigmoid = outcomes.where(activation="sigmoid")
    assert sigmoid.where(batch_norm=False).array("test").max() < 0.2
    assert (sigmoid.where(batch_norm=True).array("test").max(axis=1) > 0.6).all()


def test_chance_is_seen_as_chance(conclusion: Conclusion) -> None:
    assert conclusion.statements[0].verdict is Verdict.REPRODUCED


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 2
    assert len(conclusion.table.rows) == 2
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2, 2]]
