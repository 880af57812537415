"""Scale and shift in a tiny setting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normwise.lab.experiments import what_do_scale_and_shift_do as experiment
from normwise.lab.networks.stack import Stack
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.torch import BatchNorm1d

SETTINGS = experiment.Settings(depths=(2,), rates=(0.1, 0.5), steps=20, width=16)


def test_scale_starts_at_one_and_shift_at_zero() -> None:
    stack = Stack(2, depth=2, width=3, normalize=experiment.MAKE["both"], seed=0)
    assert experiment.moved(stack) == ([0.0, 0.0], [0.0, 0.0])


def test_how_far_they_moved_is_that_of_each_network() -> None:
    stack = Stack(2, depth=1, width=2, normalize=experiment.MAKE["both"], seed=0)
    (layer,) = stack.normalize
    assert isinstance(layer, BatchNorm1d)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 1.0, 4.0, 5.0]))
        layer.bias.copy_(torch.tensor([3.0, 4.0, 0.0, 0.0]))
    scale, shift = experiment.moved(stack)
    assert scale == pytest.approx([0.0, 12.5**0.5])
    assert shift == pytest.approx([12.5**0.5, 0.0])


def test_arms_have_the_parameters_that_they_are_named_after() -> None:
    counts = {}
    for arm in experiment.ARMS:
        stack = Stack(1, depth=1, width=7, normalize=experiment.MAKE.get(arm), seed=0)
        counts[arm] = sum(each.numel() for each in stack.normalize.parameters() if isinstance(each, nn.Parameter))
    assert counts == {"none": 0, "both": 14, "shift": 7, "neither": 0}


def test_they_move(outcomes: Outcomes) -> None:
    far = outcomes.where(arm="both").array("shift")
    assert (far > 0).all()
    assert (far[..., 1] > far[..., 0]).all()


def test_everything_shown_has_its_place(conclusion: Conclusion) -> None:
    assert len(conclusion.statements) == 5 + 4
    assert len(conclusion.table.rows) == 8
