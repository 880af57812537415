"""Every layer that can be frozen, PyTorch's and ours, and what the tests of ``freeze`` do with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import normwise.torch as nt
from tests.torch.every_layer import CASES, C, Case

TORCHS: dict[str, Case] = {
    "torch.BatchNorm1d": Case(lambda: nn.BatchNorm1d(C), (8, C, 5), True),
    "torch.BatchNorm2d": Case(lambda: nn.BatchNorm2d(C), (8, C, 3, 5), True),
    "torch.BatchNorm3d": Case(lambda: nn.BatchNorm3d(C), (8, C, 2, 3, 5), True),
    "torch.BatchNorm2d, cumulative": Case(lambda: nn.BatchNorm2d(C, momentum=None), (8, C, 3, 5), True),
    "torch.BatchNorm2d, not affine": Case(lambda: nn.BatchNorm2d(C, affine=False), (8, C, 3, 5), True),
    "torch.InstanceNorm2d": Case(
        lambda: nn.InstanceNorm2d(C, affine=True, track_running_stats=True), (8, C, 3, 5), True
    ),
    "torch.GroupNorm": Case(lambda: nn.GroupNorm(2, C), (8, C, 3, 5), False),
    "torch.LayerNorm": Case(lambda: nn.LayerNorm((C, 3, 5)), (8, C, 3, 5), False),
    "torch.RMSNorm": Case(lambda: nn.RMSNorm((C, 3, 5)), (8, C, 3, 5), False),
}
ALL = {**CASES, **TORCHS}
TRACKED = [name for name, case in ALL.items() if case.tracks]


def used(case: Case) -> nn.Module:
    """The layer after one batch of training, with no statistic or parameter at its beginning."""
    torch.manual_seed(0)
    layer = case.make()
    layer(case.input(1))
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def values(layer: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_as_before(layer: nn.Module, before: dict[str, Tensor]) -> None:
    now = values(layer)
    assert now.keys() == before.keys()
    assert [name for name in now if not torch.equal(now[name], before[name])] == []


def train(model: nn.Module, case: Case, steps: int, **settings: Any) -> None:
    """Steps of an optimizer whose momentum and weight decay move whatever has a gradient."""
    first = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([first, *model.parameters()], lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(steps):
        optimizer.zero_grad(**settings)
        (model.train()(case.input(step) * first)).square().mean().backward()
        optimizer.step()


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nt.BatchNorm2d(4, activation="relu"), nn.GroupNorm(2, 4)
    )


def batch(seed: int = 0) -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 + 1
