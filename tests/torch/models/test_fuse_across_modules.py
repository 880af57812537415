"""``fuse`` where a batch norm ends one module's forward and the activation is in another's; why some are swapped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normwise.torch.models.fusion.fuse import fuse


class ConvNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(x))


class Around(nn.Module):
    """A module whose forward does something with a module that ends in a batch norm."""

    def __init__(self, inner: nn.Module, way: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.act, self.way = inner, nn.GELU(), way

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x)


def in_order() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Identity())


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    x = torch.randn(4, 3, 5, 5)
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


REACHED: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "module": (lambda: Around(ConvNorm(), lambda m, x: m.act(m.inner(x))), {"inner.norm": "gelu"}),
    "sequence": (lambda: Around(in_order(), lambda m, x: m.act(m.inner(x))), {"inner.1": "gelu"}),
    "function": (lambda: Around(ConvNorm(), lambda m, x: F.silu(m.inner(x))), {"inner.norm": "silu"}),
    "addition": (lambda: Around(ConvNorm(), lambda m, x: m.act(m.inner(x) + x)), {"inner.norm": "add, gelu"}),
    "in a sequence": (lambda: nn.Sequential(ConvNorm(), nn.Identity(), nn.ReLU()), {"0.norm": "relu"}),
    "two modules up": (lambda: nn.Sequential(nn.Sequential(in_order()), nn.ReLU6()), {"0.0.1": "relu6"}),
}


@pytest.mark.parametrize("name", REACHED)
def test_the_activation_in_the_forward_around_is_reached(name: str) -> None:
    make, fused = REACHED[name]
    theirs = make()
    ours = copy.deepcopy(theirs)
    assert fuse(ours).fused == fused
    assert_same(ours, theirs)
    assert_same(copy.deepcopy(ours), theirs)


class Optional(ConvNorm):
    def forward(self, x: Tensor, **others: Tensor) -> Any:
        y = self.norm(self.conv(x))
        return y + others["skip"] if others else y


class Asking(ConvNorm):
    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.conv(x))
        return None if isinstance(x, list) else y


def hooked() -> nn.Module:
    model = nn.Sequential(ConvNorm(), nn.ReLU())
    model[0].register_forward_hook(lambda *_: None)
    return model


def shared() -> nn.Module:
    inner = ConvNorm()
    return nn.Sequential(inner, nn.ReLU(), inner)


SWAPPED: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "hooks": (hooked, {"0.norm": "its output is that of 0, which has hooks"}),
    "twice": (shared, {"0.norm": "its output is that of 0, which is called more than once"}),
    "alone": (
        lambda: nn.Sequential(ConvNorm(), nn.Conv2d(3, 3, 1)),
        {
            "0.norm": "its output is that of 0, and there what follows it, Conv2d, is no activation that normwise's "
            "layers do"
        },
    ),
    "trace": (
        lambda: nn.Sequential(Asking(), nn.ReLU()),
        {"0.norm": "its output is that of 0, which has a forward that calls `isinstance`, which a trace answers once"},
    ),
    "nobody": (
        ConvNorm,
        {"norm": "its output is that of the model (ConvNorm), which is not seen to be called by another module"},
    ),
    "features": (
        lambda: Around(nn.Sequential(ConvNorm(), ConvNorm()), lambda m, x: F.relu(m.inner(x))),
        {
            "inner.0.norm": "its output is that of inner.0, and there what follows it, ConvNorm, is no activation that "
            "normwise's layers do",
            "inner.1.norm": "its output is that of inner, which is a part of the model that may be called by itself",
        },
    ),
    "softmax": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Softmax(1)),
        {"0": "what follows it, Softmax, is no activation that normwise's layers do"},
    ),
    "learned": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(3)),
        {"0": "what follows it, PReLU, is an activation with a learned slope, which normwise's layers do not take"},
    ),
    "drawn": (
        lambda: Around(nn.BatchNorm2d(3), lambda m, x: F.rrelu(m.inner(x))),
        {"inner": "what follows it, rrelu, is an activation that draws its slope, which normwise's layers do not do"},
    ),
    "settings": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Hardtanh()),
        {"0": "what follows it, Hardtanh, is an activation that normwise's layers do with other settings only"},
    ),
    "twice used": (
        lambda: Around(nn.BatchNorm2d(3), lambda m, x: (y := m.inner(x)) * y.sum()),
        {"inner": "its output is used in more than one place"},
    ),
    "function": (
        lambda: Around(nn.BatchNorm2d(3), lambda m, x: torch.sin(m.inner(x))),
        {"inner": "what follows it, sin, is no activation that normwise's layers do"},
    ),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_what_is_only_swapped_says_why(name: str) -> None:
    make, swapped = SWAPPED[name]
    theirs = make()
    ours = copy.deepcopy(theirs)
    report = fuse(ours)
    assert (report.fused, report.swapped, report.left) == ({}, swapped, {})
    assert str(report).splitlines()[1:] == [f"  swapped  {layer}: {why}" for layer, why in swapped.items()]
    assert (len(report.swapped), [*report.swapped]) == (len(swapped), [*swapped])
    assert_same(ours, theirs)


def test_a_module_that_cannot_be_followed_does_not_stop_the_others() -> None:
    theirs = nn.ModuleDict({"a": nn.Sequential(Optional(), nn.ReLU()), "b": nn.Sequential(ConvNorm(), nn.ReLU())})
    ours = copy.deepcopy(theirs)
    report = fuse(ours)
    assert report.fused == {"b.0.norm": "relu"}
    assert report.left == {
        "a.0.norm": "a.0 cannot be followed: its forward takes arguments of any number or by name only"
    }
    for name in ("a", "b"):
        assert_same(ours[name], theirs[name])


class Summed(nn.Module):
    """The block of MobileOne: branches are added, and an identity stands between the sum and the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other, self.third = nn.Conv2d(3, 3, 1), *(nn.BatchNorm2d(3) for _ in range(3))
        self.attention, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        y = 0 + self.one(x)
        y += self.other(self.conv(x))
        y = y + self.third(x)
        return self.act(self.attention(y))


def test_an_identity_between_the_addition_and_the_activation() -> None:
    theirs = Summed()
    ours = copy.deepcopy(theirs)
    report = fuse(ours)
    assert report.fused == {"third": "add, relu"}
    assert report.swapped["other"].startswith("what follows the addition behind it, add, is no activation")
    assert_same(ours, theirs)
