"""The profile of a training step: every operator has a kind, and what is left without norms has none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import normwise
from benchmarks import networks, step_profile
from benchmarks import spread as spreads
from benchmarks.steps import step

SMALL = networks.Network("small", lambda: networks.resnet((1, 0, 0, 0)), (3, 32, 32), 2)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", step_profile.CONVOLUTION),
        ("aten::convolution_backward", step_profile.CONVOLUTION),
        ("aten::native_batch_norm_backward", step_profile.NORM),
        ("normwise::batch_norm_forward", step_profile.NORM),
        ("aten::threshold_backward", step_profile.NORM),
        ("Optimizer.step#SGD.step", step_profile.OPTIMIZER),
        ("aten::_foreach_add_", step_profile.OPTIMIZER),
        ("aten::max_pool2d_with_indices", step_profile.REST),
        ("graph_0_cpp_fused__native_batch_norm_legit_functional_add_convolution_relu_5", step_profile.INDUCTOR),
    ],
)
def test_kinds_of_operators(operator: str, kind: str) -> None:
    assert step_profile.kind_of(operator) == kind


def test_without_norms_nothing_normalizes_and_the_shapes_stay() -> None:
    model = networks.resnet((1, 1, 0, 0), classes=7)
    bare = networks.without_norms(model)
    assert not [each for each in bare.modules() if isinstance(each, nn.BatchNorm2d | nn.ReLU)]
    assert bare(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_layers_alone_have_the_activation_and_the_addition_that_they_have_in_the_network() -> None:
    model = networks.resnet((1, 0, 0, 0))
    normwise.fuse(model)
    assert step_profile.layers_of(model, torch.randn(2, 3, 32, 32)) == {
        ((2, 64, 16, 16), "relu", 0): 1,
        ((2, 64, 8, 8), "relu", 0): 2,
        ((2, 256, 8, 8), None, 0): 1,
        ((2, 256, 8, 8), "relu", 1): 1,
    }
    found = step_profile.layers_alone(model, torch.randn(2, 3, 32, 32), pairs=2)
    assert set(found) == {step_profile.PYTORCH, step_profile.FUSED, "ratio"}
    assert all(seconds.median > 0 and seconds.pairs == 2 for seconds in found.values())


def test_what_both_sides_compute_alone_is_the_same() -> None:
    x, residual = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    ours = normwise.torch.BatchNorm2d(4, activation="relu6")
    torch.testing.assert_close(step_profile.Plain(4, "relu6")(x, residual), ours(x, residual))


@pytest.mark.parametrize("mode", [step_profile.EAGER, step_profile.COMPILED])
def test_what_is_measured_of_a_network_and_how_it_is_said(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreads, "WIDEST", math.inf)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # takes minutes
    found = step_profile.measured(SMALL, "last", mode, rounds=1, pairs=1)
    kinds = found["milliseconds by kind"]
    assert set(kinds) == set(found["counters"]) == {step_profile.PYTORCH, step_profile.FUSED, step_profile.BARE}
    assert kinds[step_profile.PYTORCH][step_profile.NORM] > kinds[step_profile.BARE][step_profile.NORM]
    assert kinds[step_profile.FUSED][step_profile.REORDER] > 0
    said = "\n".join(step_profile.said(found))
    assert ("which lets expect" in said) == (mode == step_profile.EAGER)
    assert "times as fast" in said


def test_what_the_optimizer_calls_is_the_optimizers() -> None:
    """Its additions are none of a residual network."""
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    kinds = step_profile.by_kind(torch.optim.SGD([parameter], lr=0.1, momentum=0.9).step)
    assert kinds[step_profile.OPTIMIZER] > 0
    assert kinds[step_profile.NORM] == 0


def test_counters_see_new_memory() -> None:
    """A page of new memory that is written to is a page fault."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000))
    run = step(model, torch.randn(2, 3, 2, 2), torch.tensor([1, 2]))
    run()
    quiet = step_profile.counters(run)["page faults"]
    loud = step_profile.counters(lambda: torch.ones(64 << 20, dtype=torch.uint8))["page faults"]
    assert loud > quiet
