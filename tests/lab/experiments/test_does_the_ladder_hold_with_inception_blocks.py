"""The ladder of Inception blocks in a tiny setting, and its verdicts on hand-made curves."""

from __future__ import annotations

from normwise.lab.experiments import does_the_ladder_hold_with_inception_blocks as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.descent import looks

SETTINGS = experiment.Settings(rates=(0.1,), steps=16, width=4, growth=1.6)


def test_batch_norm_learns_in_few_steps_and_sigmoids_alone_do_not() -> None:
    settings = experiment.Settings(steps=80, width=6)
    learnt = experiment.run(experiment.Trial("BN-Baseline", 0.5, 0), settings)
    stuck = experiment.run(experiment.Trial("sigmoid", 0.1, 0), settings)
    assert learnt["test"][-1] > 0.5
    assert max(stuck["test"]) < 0.25


def test_every_rung_was_looked_at_as_often(outcomes: Outcomes) -> None:
    assert {(len(found["test"]), len(found["validation"])) for _, found in outcomes} == {(2, 2)}


def test_the_verdicts_follow_hand_made_curves() -> None:
    settings = experiment.Settings(rates=(0.1, 0.2), steps=300)
    trials, at = experiment.trials(settings, range(3)), looks(300)
    when = {"baseline": 200, "BN-Baseline": 100, "BN-x5": 20, "BN-x30": 30, "BN-x5-Sigmoid": 40}
    high = {"baseline": 0.9, "BN-Baseline": 0.91, "BN-x5": 0.93, "BN-x30": 0.95, "BN-x5-Sigmoid": 0.92}
    made_up = []
    for trial in trials:
        top = high.get(trial.rung, 0.1) if trial.rate == 0.2 else 0.1  # the other rate must not be picked
        curve = [top if step >= when.get(trial.rung, 1000) else 0.1 for step in at]
        made_up.append({"validation": curve, "test": curve})
    found = experiment.conclude(settings, Outcomes(trials, made_up))
    assert {statement.verdict for statement in found.statements} == {Verdict.REPRODUCED}
    assert found.table.rows[3][:2] == ("BN-x5", "1")


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 10
    assert len(conclusion.table.rows) == 7
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[5, 2]]
