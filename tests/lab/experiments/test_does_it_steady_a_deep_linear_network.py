"""The deep linear network in a tiny setting, and what its verdicts follow from."""

from __future__ import annotations

import math

import numpy as np

from normwise.lab.experiments import does_it_steady_a_deep_linear_network as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(rates=(0.03, 0.1, 1e6), small=0.03, steps=60, depth=5, width=4, points=40)


def test_both_networks_learn_and_one_that_diverges_is_not_the_best(outcomes: Outcomes) -> None:
    for arm in experiment.GRID.arms(SETTINGS, outcomes, choose=experiment.best):
        assert arm.best < 2
        curves = arm.numbers("loss")
        assert (curves[:, -1] < 0.9 * curves[:, 0]).all()
    assert not np.isfinite(outcomes.where(batch_norm=False).array("loss")[:, 2, -1]).any()


def verdicts(loss: float, cosine: float, distance: float, spread: float) -> list[Verdict]:
    """The verdicts when the network with batch norm has these values and the one without has .4, 1, .1 and 1."""
    trials, at = experiment.trials(SETTINGS, range(3)), len(SETTINGS.looks())
    made_up = []
    for trial in trials:
        given = (loss, cosine, distance, spread) if trial.batch_norm else (0.4, 1.0, 0.1, 1.0)
        names = ("loss", "cosine", "distance", "range")
        made_up.append(
            {name: [[value] * at, [9.0] * at, [math.nan] * at] for name, value in zip(names, given, strict=True)}
        )
    return [each.verdict for each in experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements]


def test_the_verdicts_follow_the_numbers_at_the_best_rates() -> None:
    right, wrong = Verdict.REPRODUCED, Verdict.CONTRADICTED
    assert verdicts(0.1, 0.1, 0.5, 0.2) == [right] * 11
    same = Verdict.SMALLER  # no difference, where .1 is asked for
    assert verdicts(0.8, 1.0, 0.05, 5.0) == [wrong, *[right, wrong, same, wrong, wrong] * 2]
    assert verdicts(0.3, 0.1, 0.5, 0.8)[0] is Verdict.SMALLER


def test_the_common_rates_are_the_small_one_and_the_best_without(conclusion: Conclusion, outcomes: Outcomes) -> None:
    assert experiment.best(experiment.GRID.arms(SETTINGS, outcomes)[False]) == 1
    texts = [statement.text for statement in conclusion.statements]
    assert [sum(f"At the rate {rate}," in text for text in texts) for rate in ("0.03", "that is best")] == [5, 0]
    assert sum("At the rate that is best without batch normalization," in text for text in texts) == 5


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 11
    assert len(conclusion.table.rows) == 6
    assert conclusion.table.rows[-1][2] == "diverges"
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2], [2]]
