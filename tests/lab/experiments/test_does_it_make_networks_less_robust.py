"""Robustness in a tiny setting."""

from __future__ import annotations

import pytest
import torch

from normwise.lab.data.splits import digits
from normwise.lab.experiments import does_it_make_networks_less_robust as experiment
from normwise.lab.networks.dense import Dense, he
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.attacks import moved

SETTINGS = experiment.Settings(rates=(0.3, 0.5), noise=(0.0, 0.4), sign=(0.0, 0.2), steps=100, depth=2, width=16)


def test_moved_pixels_raise_the_loss_and_stay_in_range() -> None:
    data = digits(0).test
    model = Dense(depth=1, width=16, activation="tanh", batch_norm=True, std=he, seed=0)
    found = moved(model, data, 0.01)
    losses = [torch.nn.functional.cross_entropy(model(each.images), data.labels) for each in (data, found)]
    assert losses[1] > losses[0]
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert (found.images - data.images).abs().max() == pytest.approx(0.01, rel=1e-4)


def test_changes_cost_accuracy(outcomes: Outcomes) -> None:
    for kind in ("noise", "sign"):
        values = outcomes.array(kind)[:, 0]
        assert (values[:, 0] > 0.8).all()
        assert (values[:, 1] < values[:, 0]).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 3
    assert len(conclusion.table.rows) == 4
    ((*panels,),) = (figure.panels for figure in conclusion.figures)
    assert [len(panel.series) for panel in panels] == [2, 2]
