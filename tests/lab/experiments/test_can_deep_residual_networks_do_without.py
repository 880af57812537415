"""Residual networks in a tiny setting."""

from __future__ import annotations

import torch

from normwise.lab.experiments import can_deep_residual_networks_do_without as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion

SETTINGS = experiment.Settings(blocks=(6,), rates=(0.05, 0.1), steps=60, width=32)


def test_skipinit_begins_as_the_identity() -> None:
    model = experiment.network(experiment.Trial("skipinit", 6, 0), SETTINGS)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        assert torch.equal(block(x), x)


def test_batch_norm_lets_the_skip_connection_outgrow_the_branch(outcomes: Outcomes) -> None:
    with_it, without = (outcomes.where(arm=arm).array("ratios") for arm in ("batch", "none"))
    assert (with_it[:, -1] > 2 * with_it[:, 0]).all()
    assert (with_it[:, -1] > 2 * without[:, -1]).all()


def test_batch_norm_and_skipinit_learn(outcomes: Outcomes) -> None:
    for arm in ("batch", "skipinit"):
        assert (outcomes.where(arm=arm).array("test") > 0.5).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 4
    assert len(conclusion.table.rows) == 3
    accuracy, variance = conclusion.figures
    assert [len(panel.series) for panel in accuracy.panels] == [3]
    assert [len(series.x) for series in variance.panels[0].series] == [6, 6]
