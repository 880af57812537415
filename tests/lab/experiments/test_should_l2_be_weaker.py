"""L2 in a tiny setting, and the identity held exactly."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.data.splits import digits
from normwise.lab.experiments import should_l2_be_weaker as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion, Verdict
from normwise.lab.training.fixed_norms import difference_to_another_rate

SETTINGS = experiment.Settings(
    decays=(0.0, 0.005, 0.025, 0.125), rates=(0.1,), images=120, steps=60, depth=2, width=16, steps_of_identity=20
)


def test_at_fixed_norms_l2_is_another_rate(outcomes: Outcomes) -> None:
    assert (outcomes.where(batch_norm=True).array("identity") < 1e-11).all()


def test_and_not_the_same_rate() -> None:
    data = digits(0).train
    assert difference_to_another_rate(data, depth=2, width=16, steps=20, batch=60, seed=0) < 1e-11
    assert difference_to_another_rate(data, depth=2, width=16, steps=20, batch=60, seed=0, hidden_rate=0.1) > 1e-6


def test_l2_shrinks_the_weights_in_both_arms(outcomes: Outcomes) -> None:
    norms = outcomes.array("norm")[:, :, 0]
    assert (np.diff(norms, axis=1) < 0).all()


@pytest.mark.parametrize(("best", "edge"), [(1, True), (2, False), (3, True)])
def test_a_fifth_of_the_l2_that_suits_the_plain_network_is_compared_with_all_of_it(best: int, edge: bool) -> None:
    trials = experiment.trials(SETTINGS, (0, 1))
    made_up = []
    for trial in trials:
        validation = [[0.9 if i == best else 0.8] for i in range(4)]
        test = [[0.95 - 0.01 * i] for i in range(4)] if trial.batch_norm else validation
        made_up.append({"validation": validation, "test": test, "norm": [[1.0]] * 4, "identity": 0.0})
    weaker, _, helps, *_ = experiment.conclude(SETTINGS, Outcomes(trials, made_up)).statements
    assert weaker.effect.value == pytest.approx(1.0)
    assert weaker.verdict is Verdict.REPRODUCED
    at_the_edge = "the best L2 weight lies at the edge of its grid"
    assert weaker.effect.obstacle == (at_the_edge if edge else "")
    assert helps.effect.obstacle == (at_the_edge if best == 3 else "")  # 0 is beside the smallest one


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == 4
    assert [[len(panel.series) for panel in figure.panels] for figure in conclusion.figures] == [[2]]
