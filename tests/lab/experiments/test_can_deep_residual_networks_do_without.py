"""Residual networks in a tiny setting."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from normwise.lab.experiments import can_deep_residual_networks_do_without as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(blocks=(6,), rates=(0.05, 0.1), steps=60, width=32)


@pytest.mark.parametrize("arm", ["skipinit", "fixup"])
def test_branches_begin_at_nothing(arm: str) -> None:
    model = experiment.network(experiment.Trial(arm, 6, 0), SETTINGS, 2)
    x = torch.randn(2, 32, 5, generator=torch.Generator().manual_seed(0))
    for block in range(6):
        assert not model.branch(block, x).any()


def test_batch_norm_lets_the_skip_connection_outgrow_the_branch(outcomes: Outcomes) -> None:
    with_it, without = (outcomes.where(arm=arm).array("ratios") for arm in ("batch", "none"))
    assert (with_it[:, -1] > 2 * with_it[:, 0]).all()
    assert (with_it[:, -1] > 2 * without[:, -1]).all()


@pytest.mark.parametrize("arm", ["batch", "skipinit", "fixup"])
def test_all_but_the_one_without_learn(outcomes: Outcomes, arm: str) -> None:
    assert (outcomes.where(arm=arm).array("test").max(axis=1) > 0.5).all()


def test_a_network_that_still_learns_bears_no_verdict() -> None:
    settings = replace(SETTINGS, rates=(0.05, 0.1, 0.2))
    trials = experiment.trials(settings, range(3))
    values = {name: [0.8, 0.9, 0.8] for name in ("validation", "test")} | {"ratios": [1.0] * 6}
    for late, hindered in ((0.895, False), (0.8, True)):
        made_up = Outcomes(trials, [values | {"late": [late] * 3} for _ in trials])
        for each in experiment.conclude(settings, made_up).statements[:3]:
            assert each.effect.obstacle.startswith("the training did not reach a plateau") == hindered


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5
    assert len(conclusion.table.rows) == 4
    accuracy, variance = conclusion.figures
    assert [len(panel.series) for panel in accuracy.panels] == [4]
    assert [len(series.x) for series in variance.panels[0].series] == [6, 6]
