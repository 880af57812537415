"""The making of batches, and the three ways in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.data.orders import rows_of_batches
from normwise.lab.experiments import does_shuffling_help_more_with_it as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(rates=(0.1, 0.3), images=100, steps=40, depth=2, width=16)


LABELS = torch.tensor([0, 1] * 10)


def groups(order: str) -> list[frozenset[int]]:
    return [frozenset(rows.tolist()) for rows in rows_of_batches(order, LABELS, 5, 16, 0)]


def test_every_pass_takes_every_image_once() -> None:
    for order in experiment.ORDERS:
        found = groups(order)
        for begin in range(0, 16, 4):
            assert frozenset().union(*found[begin : begin + 4]) == frozenset(range(20))


def test_fixed_batches_come_again_and_shuffled_ones_do_not() -> None:
    assert len(set(groups("fixed"))) == len(set(groups("sorted"))) == 4
    assert len(set(groups("shuffled"))) == 16


def test_sorted_batches_have_one_class_each() -> None:
    assert all(len({int(LABELS[i]) for i in group}) == 1 for group in groups("sorted"))


def test_sorted_batches_cost_more_with_batch_norm(outcomes: Outcomes) -> None:
    tests = {
        (arm, order): outcomes.where(batch_norm=arm, order=order).array("test").max(axis=1).mean()
        for arm in (True, False)
        for order in ("shuffled", "sorted")
    }
    assert tests[True, "shuffled"] - tests[True, "sorted"] > 0.1


def test_a_gain_is_judged_by_its_size() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    high = {"shuffled": 0.97, "fixed": 0.96, "sorted": 0.90}
    made_up = [
        {"validation": [0.9, 0.8], "test": [high[trial.order] if trial.batch_norm else 0.9, 0.0]} for trial in trials
    ]
    verdicts = [each.verdict for each in experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements]
    assert verdicts == [Verdict.REPRODUCED] * 3


def test_what_costs_every_network_the_same_is_not_the_layers_doing() -> None:
    trials = experiment.trials(SETTINGS, range(3))
    costs = {"shuffled": 0.97, "fixed": 0.97, "sorted": 0.90}
    made_up = [{"validation": [0.9, 0.8], "test": [costs[trial.order], 0.0]} for trial in trials]
    cost, more = experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements[1:]
    assert (cost.verdict, more.verdict) == (Verdict.REPRODUCED, Verdict.SMALLER)
    assert more.effect.value == 0


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 3
    assert len(conclusion.table.rows) == 6
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[3, 3]]
