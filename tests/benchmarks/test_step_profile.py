"""The profile of a training step: every operator has a kind, and what is left without norms has none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import networks, step_profile
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
    ],
)
def test_kinds_of_operators(operator: str, kind: str) -> None:
    assert step_profile.kind_of(operator) == kind


def test_without_norms_nothing_normalizes_and_the_shapes_stay() -> None:
    model = networks.resnet((1, 1, 0, 0), classes=7)
    bare = networks.without_norms(model)
    assert not [each for each in bare.modules() if isinstance(each, nn.BatchNorm2d | nn.ReLU)]
    assert bare(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_layers_alone_are_all_batch_norms_of_the_network() -> None:
    """On both sides, forward and backward."""
    x = torch.randn(2, 3, 32, 32)
    found = step_profile.layers_alone(networks.resnet((1, 0, 0, 0)), x, pairs=1)
    assert set(found) == {step_profile.PYTORCH, step_profile.FUSED}
    assert all(seconds > 0 for seconds in found.values())


def test_what_is_measured_of_a_network_and_how_it_is_said() -> None:
    found = step_profile.measured(SMALL, "last", rounds=1, pairs=1)
    kinds = found["milliseconds by kind"]
    assert set(kinds) == set(found["counters"]) == {step_profile.PYTORCH, step_profile.FUSED, step_profile.BARE}
    assert kinds[step_profile.PYTORCH][step_profile.NORM] > kinds[step_profile.BARE][step_profile.NORM]
    assert found["ratio that these let expect"] > 0
    assert "which lets expect" in "\n".join(step_profile.said(found))


def test_counters_see_new_memory() -> None:
    """A page of new memory that is written to is a page fault."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000))
    run = step(model, torch.randn(2, 3, 2, 2), torch.tensor([1, 2]))
    run()
    quiet = step_profile.counters(run)["page faults"]
    loud = step_profile.counters(lambda: torch.ones(64 << 20, dtype=torch.uint8))["page faults"]
    assert loud > quiet
