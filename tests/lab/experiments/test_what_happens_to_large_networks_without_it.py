"""Large networks at initialization, one of them with one small batch; sizes by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from normwise.lab.data.photographs import crops
from normwise.lab.experiments import what_happens_to_large_networks_without_it as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.sizes import sizes

SETTINGS = experiment.Settings(networks=("ResNet50",), images=2, size=33, thin=8)


def test_sizes_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        for layer, times in zip(model, (10.0, 0.1), strict=True):
            layer.get_parameter("weight").copy_(times * torch.eye(2))
    found = sizes(model, torch.tensor([[3.0, 3.0]]), torch.tensor([0]))
    # logits (3, 3): the gradient by them is (-.5, .5), and by the weights (-.5, .5)' x for the x that they receive
    assert found["loss"] == pytest.approx(math.log(2))
    assert found["signals"] == pytest.approx([math.log10(3), math.log10(30)])
    norms = [0.1 * math.sqrt(0.5) * math.sqrt(18), math.sqrt(0.5) * math.sqrt(1800)]
    weights = [10 * math.sqrt(2), 0.1 * math.sqrt(2)]
    assert found["shares"] == pytest.approx([math.log10(a / b) for a, b in zip(norms, weights, strict=True)])
    assert found["gradients"] == pytest.approx([math.log10(math.sqrt(0.5)), math.log10(0.1 * math.sqrt(0.5))])


def test_crops_are_parts_of_both_photographs() -> None:
    found = crops(4, 50, seed=0)
    assert found.shape == (4, 3, 50, 50)
    assert -1 <= float(found.min()) < float(found.max()) <= 1
    assert torch.equal(found, crops(4, 50, seed=0))
    assert not torch.equal(found[0], found[2])


def test_signals_grow_in_a_residual_network_without_it(outcomes: Outcomes) -> None:
    without, with_it = (outcomes.where(scale="he", batch_norm=each).array("signals") for each in (False, True))
    assert (without[:, -2] > without[:, 0] + 1).all()
    assert (without.max(axis=1) > with_it.max(axis=1) + 0.7).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 2 * 3
    assert len(conclusion.table.rows) == 4
    assert [len(figure.panels) for figure in conclusion.figures] == [1, 1, 1]
    assert len(conclusion.figures[0].panels[0].series) == 2
