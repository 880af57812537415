"""The learning rates' experiment in a tiny setting, and its bookkeeping on hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.design.curves import largest_usable
from normwise.lab.experiments import does_it_allow_higher_learning_rates as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict

SETTINGS = experiment.Settings(rates=(0.01, 0.3, 1e4), steps=30, depth=2, width=16)


def test_the_largest_usable_rate_is_that_of_each_seed() -> None:
    accuracies = np.array([[0.97, 0.95, 0.1], [0.96, 0.94, 0.1], [0.9, 0.9, 0.1]])
    found = largest_usable(accuracies, (0.1, 1.0, 10.0), 0.95)
    assert found[:2].tolist() == [1.0, 0.1]
    assert found[2] == pytest.approx(0.01)  # one step below the smallest


def made_up(with_norm: dict[float, float], without: dict[float, float], rise: float = 0.0) -> Conclusion:
    settings = experiment.Settings(rates=tuple(with_norm))
    trials = experiment.trials(settings, range(5))
    outcomes = []
    for trial in trials:
        value = (with_norm if trial.batch_norm else without)[trial.rate]
        test = value + 0.001 * trial.seed
        found = {"validation": value, "test": test, "late": value - rise, "end": value, "plateau": test}
        outcomes.append({"finite": True, **found})
    return experiment.conclude(settings, Outcomes(trials, outcomes))


def test_the_verdicts_follow_the_numbers() -> None:
    higher = made_up({0.01: 0.96, 0.1: 0.97, 1.0: 0.98}, {0.01: 0.96, 0.1: 0.96, 1.0: 0.1})
    assert [each.verdict for each in higher.statements] == [Verdict.REPRODUCED] * 3
    assert higher.statements[0].effect.value == pytest.approx(10)
    same = made_up({0.01: 0.99, 0.1: 0.97, 1.0: 0.1}, {0.01: 0.96, 0.1: 0.985, 1.0: 0.1})
    found = [each.verdict for each in same.statements]
    assert found == [Verdict.CONTRADICTED, Verdict.CONTRADICTED, Verdict.SMALLER]
    worse = made_up({0.01: 0.3, 0.1: 0.3, 1.0: 0.3}, {0.01: 0.5, 0.1: 0.6, 1.0: 0.1})
    assert worse.statements[0].verdict is Verdict.CONTRADICTED  # no rate with it does what one without it does


def test_what_is_usable_depends_on_what_the_network_without_it_learns() -> None:
    easy = made_up({0.01: 0.9, 0.1: 0.9, 1.0: 0.9}, {0.01: 0.9, 0.1: 0.97, 1.0: 0.1})
    hard = made_up({0.01: 0.9, 0.1: 0.9, 1.0: 0.9}, {0.01: 0.88, 0.1: 0.92, 1.0: 0.1})
    assert [each.statements[0].verdict for each in (easy, hard)] == [Verdict.CONTRADICTED, Verdict.REPRODUCED]


def test_where_the_network_without_it_does_not_train_nothing_is_said_of_usable_rates() -> None:
    nobody = made_up({0.01: 0.9, 0.1: 0.9, 1.0: 0.9}, {0.01: 0.1, 0.1: 0.1, 1.0: 0.1}).statements[0]
    assert nobody.effect.obstacle == "the network that sets the accuracy to reach does not train"


def test_a_small_rate_at_which_a_network_still_learns_bears_no_verdict() -> None:
    rates = {0.01: 0.96, 0.1: 0.97, 1.0: 0.1}
    for rise, obstacle in ((0.009, ""), (0.02, "the training did not reach a plateau (with batch norm)")):
        _, small, _ = made_up(rates, rates, rise).statements
        assert (small.text.startswith("At the small rate 0.01"), small.effect.obstacle) == (True, obstacle)


def test_a_rate_out_of_all_reason_guesses(conclusion: Conclusion) -> None:
    (figure,) = conclusion.figures
    (panel,) = figure.panels
    assert [series.label for series in panel.series] == ["with batch norm", "without"]
    for series in panel.series:
        assert series.x == SETTINGS.rates
        assert series.y[1] is not None
        assert series.y[1] > 0.3
        assert series.y[2] is not None
        assert series.y[2] < 0.3
        assert len(series.low) == len(series.high) == 3


def test_training_goes_on_at_small_rates_only_and_changes_nothing_before() -> None:
    found = {}
    for longer in (1, 5):
        settings = experiment.Settings(rates=(0.01, 0.3, 1.0), steps=30, longer=longer, depth=2, width=16)
        for rate in (0.01, 0.3):
            found[longer, rate] = experiment.run(experiment.Trial(True, rate, 0), settings)
    assert found[1, 0.3] == found[5, 0.3]
    assert all(found[1, 0.01][name] == found[5, 0.01][name] for name in ("validation", "test"))
    assert found[5, 0.01]["plateau"] > found[1, 0.01]["plateau"] == found[1, 0.01]["test"]


def test_the_table_has_a_row_for_every_rate_one_more_for_small_ones_and_two(conclusion: Conclusion) -> None:
    assert len(conclusion.table.rows) == 6
    assert all(len(row) == 3 for row in conclusion.table.rows)
    assert "over 2 seeds" in conclusion.table.caption
