"""Forwards of which a trace is not the whole: rewritten ones do the same afterwards, or refuse to run."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_swap import prepared


class Base(nn.Module):
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.flag = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), True
        self.settings: Any = types.SimpleNamespace(act=True)
        self.options, self.names, self.function = {"act": True}, ("gelu",), F.gelu
        self.register_buffer("steps", torch.zeros(()))
        self.noted = torch.zeros(())

    def inner(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


class InNamespace(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.inner(x)) if self.settings.act else self.inner(x)


class InDictionary(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return F.gelu(y) if self.options["act"] else y


class InTuple(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        for name in self.names:
            y = getattr(F, name)(y)
        return y


class AFunction(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner(x))


class OfAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child: Any = Base()

    def forward(self, x: Tensor) -> Tensor:
        y = self.child.norm(self.child.conv(x))
        return F.gelu(y) if self.child.flag else y


class OfEachChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.children_in_order: Any = nn.ModuleList([Base()])

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children_in_order:
            x = child.norm(child.conv(x))
            x = F.gelu(x) if child.flag else x
        return x


class WithMethod(Base):
    def features(self, x: Tensor) -> Tensor:
        return F.gelu(self.inner(x)) if self.flag else self.inner(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class InMethodOfAChild(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child: Any = WithMethod()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.child.features(x))


def undecorated(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    def wrapper(self: Any, x: Tensor) -> Tensor:
        return forward(self, x)

    return wrapper


class BehindAWrapper(Base):
    @undecorated
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.inner(x)) if self.flag else self.inner(x)


class OtherName(Base):
    def forward(this, x: Tensor) -> Tensor:
        return F.gelu(this.inner(x)) if this.flag else this.inner(x)


class InDict(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.inner(x)) if self.__dict__["flag"] else self.inner(x)


class HandedOn(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.inner(x)) if vars(self)["flag"] else self.inner(x)


class Matching(Base):
    def forward(self, x: Tensor) -> Tensor:
        match x:
            case Tensor():
                return F.gelu(self.inner(x))
        return self.inner(x)


class Drawing(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.inner(x))
        return y * 0 if self.training and torch.rand(1).item() < 0.5 else y


class Counting(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return F.gelu(self.inner(x)) * self.steps


class CountingInPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.steps.add_(1)
        return F.gelu(self.inner(x)) * self.steps


class NotingInPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.noted.add_(1)
        return F.gelu(self.inner(x)) * float(self.noted)


class Checkpointed(Base):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(lambda inner: F.gelu(self.norm(inner)), self.conv(x), use_reentrant=False)
        return y


def without_flag(model: Any) -> None:
    model.flag = False


def change(name: str, value: object) -> Callable[[Any], None]:
    return lambda model: setattr(model, name, value)


def nothing(_: object) -> None:
    """Of the model."""


CASES: list[tuple[type[nn.Module], Callable[[Any], None]]] = [
    (InNamespace, lambda model: setattr(model.settings, "act", False)),
    (InDictionary, lambda model: model.options.update(act=False)),
    (InTuple, change("names", ())),
    (AFunction, change("function", F.silu)),
    (OfAChild, lambda model: without_flag(model.child)),
    (OfEachChild, lambda model: without_flag(model.children_in_order[0])),
    (WithMethod, without_flag),
    (InMethodOfAChild, lambda model: without_flag(model.child)),
    (BehindAWrapper, without_flag),
    (OtherName, without_flag),
    (InDict, without_flag),
    (HandedOn, without_flag),
    (Matching, nothing),
    (Drawing, nothing),
    (Counting, nothing),
    (CountingInPlace, nothing),
    (NotingInPlace, nothing),
    (Checkpointed, nothing),
]


def ours_with_activation(model: nn.Module) -> None:
    for module in model.modules():
        norm = module._modules.get("norm")
        if norm is not None:
            layer = nt.BatchNorm2d(4, activation="silu").double()
            layer.load_state_dict(norm.state_dict(), strict=False)
            module._modules["norm"] = layer


@pytest.mark.parametrize("operation", ["fuse", "swap", "fold"])
@pytest.mark.parametrize(("kind", "changed"), CASES, ids=[kind.__name__ for kind, _ in CASES])
def test_a_rewritten_forward_does_what_the_forward_does(
    kind: type[nn.Module], changed: Callable[[Any], None], operation: str
) -> None:
    ours = prepared(kind)
    if operation == "swap":
        ours_with_activation(ours)
    theirs = copy.deepcopy(ours)
    before = torch.get_rng_state()
    if operation == "fold":
        fold(ours.eval())
    else:
        (fuse if operation == "fuse" else swap)(ours)
    assert torch.equal(torch.get_rng_state(), before)
    refused = ""
    for step in range(6):
        if step == 4:
            changed(ours)
            changed(theirs)
        x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
        outputs = []
        for model in (ours, theirs):
            torch.manual_seed(step)
            model.train(operation != "fold" and step % 2 == 0)
            try:
                outputs.append(model(x))
            except RuntimeError as error:
                refused = str(error)
                break
            outputs[-1].sum().backward()
        if refused:
            break
        torch.testing.assert_close(*outputs)
    assert not refused or ("when the model was fused" in refused and changed is not nothing)
    if operation != "fold":
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("kind", [InNamespace, InDictionary, InTuple, AFunction, OfAChild, OfEachChild])
def test_settings_are_compared_in_a_compiled_model_too(kind: type[nn.Module]) -> None:
    ours = prepared(kind)
    theirs, x = copy.deepcopy(ours), torch.randn(3, 3, 4, 4, dtype=torch.float64)
    fuse(ours)
    torch.testing.assert_close(torch.compile(ours, backend="eager", fullgraph=True)(x), theirs(x))


class Residual(Base):
    def __init__(self) -> None:
        super().__init__()
        self.later, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.inner(x))
        return F.relu(self.last(self.later(x)) + x)


class Wider(Residual):
    """The sum is larger than what the last layer puts out."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.inner(x))
        return F.relu(self.last(self.later(x.mean((2, 3), keepdim=True))) + x)


class WiderAround(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.short(x) + x)


ADDED: list[tuple[Callable[[], nn.Module], dict[str, str]]] = [
    (Residual, {"norm": "gelu", "last": "add, relu"}),
    (Wider, {"norm": "gelu", "last": "add, relu"}),
    (lambda: nn.Sequential(WiderAround()), {"0.short.2": "add, silu"}),
]


@pytest.mark.parametrize(("make", "fused"), ADDED)
def test_what_is_added_may_come_from_another_batch_norm_and_may_be_larger(
    make: Callable[[], nn.Module], fused: dict[str, str]
) -> None:
    ours = prepared(make)
    theirs = copy.deepcopy(ours)
    assert fuse(ours).fused == fused
    for training in (True, False):
        x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    fold(ours)
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
