"""The cost of batch norm in large networks, measured in thin ones; bytes by hand, and no time is asserted."""

from __future__ import annotations

import torch
from torch import nn

from normwise.lab.experiments import what_does_it_cost_in_training as experiment
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.training.cost import kept_for_backward

SETTINGS = experiment.Settings(networks=("ResNet50",), images=2, size=33, thin=8, repeats=1)


def test_what_is_kept_by_hand() -> None:
    """A linear layer keeps its input, the ReLU its output, the loss its logarithms, the labels and a total weight."""
    model, images, labels = nn.Linear(4, 3, bias=False), torch.ones(2, 4), torch.tensor([0, 1])
    linear = kept_for_backward(model, images, labels)
    assert kept_for_backward(nn.Sequential(model, nn.ReLU()), images, labels) == linear + 2 * 3 * 4
    assert kept_for_backward(model, torch.ones(2, 4).repeat(1, 1), labels) == linear
    assert linear >= 2 * 4 * 4


def test_a_network_with_it_keeps_more(outcomes: Outcomes) -> None:
    kept = outcomes.array("bytes")
    assert (kept[:, experiment.WITH] > 1.2 * kept[:, experiment.WITHOUT]).all()
    assert (outcomes.array("parameters") > 0).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 3
    assert len(conclusion.table.rows) == 1
    assert [len(panel.series) for figure in conclusion.figures for panel in figure.panels] == [2]
