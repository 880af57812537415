"""Operations one after the other, in any order, on models with what people hang on their layers: nothing changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.freeze import freeze, unfreeze
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_swap import prepared

OPERATIONS: dict[str, Callable[[nn.Module], Any]] = {
    "fuse": fuse,
    "fold": fold,
    "freeze": freeze,
    "unfreeze": unfreeze,
    "swap to normwise": partial(swap, to="normwise"),
    "swap to torch": partial(swap, to="torch"),
}


class Block(nn.Module):
    """Residual, with activations as a module and as a function, and one branch that is a sequence."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)
        self.short = nn.Sequential(nn.Conv2d(before, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.short(x)
        return F.relu(y)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(3, 4), Block(4, 6)
        self.linear, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.linear(self.two(self.one(x)).mean((2, 3)))))


def plain(_: Network) -> None:
    """Nothing hangs on a layer."""


def weight_norm(model: Network) -> None:
    parametrizations.weight_norm(model.one.conv1)


def spectral_norm(model: Network) -> None:
    parametrizations.spectral_norm(model.one.conv2)


def pruned(model: Network) -> None:
    prune.l1_unstructured(model.one.conv1, "weight", amount=0.3)


def hooks(model: Network) -> None:
    model.one.norm1.register_forward_hook(lambda *given: given[2] * 2)
    model.two.conv1.register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1,))


def backward_hooks(model: Network) -> None:
    def double(_: nn.Module, into: Any, __: Any) -> Any:
        return (into[0] * 2,)

    model.one.norm1.register_full_backward_hook(double)


def partly_learning(model: Network) -> None:
    model.one.requires_grad_(False)


def tied(model: Network) -> None:
    model.one.norm2.weight = model.one.norm1.weight


def shared(model: Network) -> None:
    model.one.norm2 = model.one.norm1


WITH = [plain, weight_norm, spectral_norm, pruned, hooks, backward_hooks, partly_learning, tied, shared]


def twins(what: Callable[[Network], None]) -> list[Any]:
    """Two models of the same values; PyTorch's deepcopy fails at a pruned layer, and leaves hooks on the first one."""
    found = []
    for _ in range(2):
        model: Any = prepared(Network)
        what(model)
        found.append(model.eval())
    return found


@pytest.mark.parametrize("what", WITH)
@pytest.mark.parametrize("names", [*product(OPERATIONS, repeat=2)])
def test_outputs_gradients_and_statistics_stay(names: tuple[str, str], what: Callable[[Network], None]) -> None:
    ours, theirs = twins(what)
    for name in names:
        OPERATIONS[name](ours)
    x = torch.randn(8, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-11)
        if what is not pruned:
            torch.testing.assert_close(copy.deepcopy(ours)(x), theirs(x), rtol=1e-9, atol=1e-11)
    if not {"fold", "freeze"} & {*names}:
        for model in (ours, theirs):
            model.train()(x).square().sum().backward()
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-11)
        gradients = [{name: each.grad for name, each in model.named_parameters()} for model in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
