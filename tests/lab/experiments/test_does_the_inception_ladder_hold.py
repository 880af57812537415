"""The ladder in a tiny setting, and its bookkeeping on hand-made curves."""

from __future__ import annotations

import numpy as np

from normwise.lab.design.ladder import rungs_of
from normwise.lab.experiments import does_the_inception_ladder_hold as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.descent import looks

SETTINGS = experiment.Settings(rates=(0.02, 0.05), steps=60, depth=3, width=24)


def test_the_rungs_of_the_paper_have_their_rates_and_their_normalization(outcomes: Outcomes) -> None:
    for trial, found in outcomes:
        rungs = (3 if trial.batch_norm else 2) if trial.activation == "relu" else 1
        shape = (rungs, 2, len(looks(SETTINGS.steps)))
        assert np.shape(found["test"]) == np.shape(found["validation"]) == shape


def test_everything_learns_or_guesses_and_nothing_diverged_in_so_few_steps(outcomes: Outcomes) -> None:
    ends = outcomes.where(activation="relu", batch_norm=True).array("test")[..., -1]
    assert ends.mean() > 0.3
    assert outcomes.where(activation="sigmoid", batch_norm=False).array("test")[..., -1].max() < 0.25
    assert all(np.all(found["finite"]) for _, found in outcomes)


def test_the_verdicts_follow_hand_made_curves() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    at = looks(SETTINGS.steps)
    when = {"baseline": 50, "baseline at x5": 1000, "BN-Baseline": 30, "BN-x5": 12, "BN-x30": 16}
    when |= {"sigmoid": 1000, "BN-x5-Sigmoid": 20}
    high = {"baseline": 0.9, "BN-Baseline": 0.91, "BN-x5": 0.93, "BN-x30": 0.95, "BN-x5-Sigmoid": 0.92}
    made_up = []
    for trial in trials:
        curves = [
            [[high.get(rung, 0.1) if step >= when[rung] else 0.1 for step in at]] * 2
            for rung in rungs_of(batch_norm=trial.batch_norm, activation=trial.activation)
        ]
        made_up.append({"validation": curves, "test": curves, "finite": [[1.0] * 2] * len(curves)})
    found = experiment.conclude(SETTINGS, Outcomes(trials, made_up))
    assert {statement.verdict for statement in found.statements} == {Verdict.REPRODUCED}


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 10
    assert len(conclusion.table.rows) == 7
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[5, 2]]
