"""Methods besides the forward that use a fused layer: they do what they did, in every thread and however they end."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.torch.layers.left_away import LEFT
from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_swap import prepared


class ByModule(nn.Module):
    """The activation is a module, whose place an identity can take."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class ByFunction(ByModule):
    """The activation is a function, so that the forward is written again."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.conv(x)))


class Plain:
    def features(self: Any, x: Tensor) -> Any:
        return self.norm(self.conv(x))


class Generator:
    def features(self: Any, x: Tensor) -> Iterator[Tensor]:
        yield self.norm(self.conv(x))


class Asynchronous:
    async def features(self: Any, x: Tensor) -> Any:
        return self.norm(self.conv(x))


class Property:
    @property
    def features(self: Any) -> Any:
        x = self.norm(self.conv(torch.ones(2, 3, 4, 4, dtype=torch.float64)))
        return lambda _: x


class Static:
    @staticmethod
    def normalized(module: Any, x: Tensor) -> Any:
        return module.norm(x)

    def features(self: Any, x: Tensor) -> Any:
        return self.normalized(self, self.conv(x))


class Later:
    def features(self: Any, x: Tensor) -> Any:
        return lambda: self.norm(self.conv(x))


class Inside:
    def features(self: Any, x: Tensor) -> Any:
        def normalized(self: Any, y: Tensor) -> Any:
            return self.norm(y)

        return normalized(self, self.conv(x))


class Recomputed:
    def features(self: Any, x: Tensor) -> Any:
        return checkpoint(self.norm, self.conv(x), use_reentrant=False)


class MethodRecomputed:
    def stem(self: Any, x: Tensor) -> Any:
        return self.norm(self.conv(x))

    def features(self: Any, x: Tensor) -> Any:
        return checkpoint(self.stem, x, use_reentrant=False)


class HandedOn:
    def run(self: Any, layer: nn.Module, x: Tensor) -> Any:
        return layer(x)

    def features(self: Any, x: Tensor) -> Any:
        return self.run(self.norm, self.conv(x))


class BetweenThem:
    def features(self: Any, x: Tensor) -> Any:
        y = self.norm(self.conv(x))
        return self.act(y * 2)


class WithOrWithout:
    def features(self: Any, x: Tensor, act: bool = False) -> Any:
        y = self.norm(self.conv(x))
        return self.act(y) if act else y


class OneByOne:
    def features(self: Any, x: Tensor) -> Any:
        found = []
        for child in self.children():
            x = child(x)
            found.append(x)
        return found


class ByPath:
    def features(self: Any, x: Tensor) -> Any:
        return self.get_submodule("norm")(self._modules["conv"](x))


class ByForward:
    def features(self: Any, x: Tensor) -> Any:
        return self.norm.forward(self.conv.__call__(x))


class Sliced:
    def features(self: Any, x: Tensor) -> Any:
        return nn.Sequential(*list(self.children())[:2])(x)


class Got:
    def last(self: Any) -> Any:
        return self.norm

    def features(self: Any, x: Tensor) -> Any:
        return self.last()(self.conv(x))


def features_of(self: Any, x: Tensor) -> Any:
    return self.norm(self.conv(x))


class Assigned:
    features = features_of


class NoDefinition:
    features: Any = lambda self, x: self.norm(self.conv(x))  # what no tree of definitions shows


class WithItself:
    def features(self: Any, x: Tensor) -> Any:
        return features_of(self, x)


class AndForward:
    def features(self: Any, x: Tensor) -> Any:
        return self.norm(self.conv(x)), self(x)


class Nested:
    def stem(self: Any, x: Tensor) -> Any:
        return self.norm(self.conv(x))

    def features(self: Any, x: Tensor) -> Any:
        return self.stem(x) + self.norm(self.conv(x))


KINDS: list[type] = [
    Plain, Generator, Asynchronous, Property, Static, Later, Inside, Recomputed, MethodRecomputed, HandedOn,
    BetweenThem, WithOrWithout, OneByOne, ByPath, ByForward, Sliced, Got, Assigned, NoDefinition, WithItself,
    AndForward, Nested,
]  # fmt: skip


def called(model: Any, x: Tensor) -> Any:
    found = model.features(x) if not isinstance(model, Property) else model.features(x).clone()
    if isinstance(model, Generator):
        return [*found]
    if isinstance(model, Asynchronous):
        return asyncio.run(found)
    return found() if isinstance(model, Later) else found


def total(value: Any) -> Tensor:
    return value.sum() if isinstance(value, Tensor) else torch.stack([total(each) for each in value]).sum()


@pytest.mark.parametrize("base", [ByModule, ByFunction])
@pytest.mark.parametrize("mixin", KINDS)
def test_a_method_does_what_it_did(mixin: type, base: type[nn.Module]) -> None:
    kind = type("Made", (mixin, base), {"__module__": __name__})
    ours: Any = prepared(kind)
    theirs = copy.deepcopy(ours)
    fuse(ours)
    # PyTorch's layer counts a batch twice that is recomputed, and normwise's once: those are compared in inference.
    for training in (True, False) if "Recomputed" not in mixin.__name__ else (False,):
        ours.train(training)
        theirs.train(training)
        for call in (called, lambda model, x: model(x), called):
            x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
            found, expected = call(ours, x), call(theirs, x)
            torch.testing.assert_close(found, expected)
            if mixin is not Property or call is not called:
                (dx,), (dx_expected,) = (torch.autograd.grad(total(each), x) for each in (found, expected))
                torch.testing.assert_close(dx, dx_expected)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    swap(ours)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


class Served(ByFunction):
    def features(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def fails(self, x: Tensor) -> Tensor:
        self.norm(self.conv(x))
        raise KeyError("in the middle")


def fused_and_not(kind: Callable[[], nn.Module] = Served) -> tuple[Any, Any]:
    ours = prepared(kind).eval()
    theirs = copy.deepcopy(ours)
    assert list(fuse(ours).fused) == ["norm"]
    return ours, theirs


def test_threads_that_share_a_model_each_get_their_own() -> None:
    ours, theirs = fused_and_not()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = {name: getattr(theirs, name)(x) for name in ("features", "forward")}
    wrong: list[str] = []
    inside, go_on = threading.Barrier(2), threading.Event()

    def wait(*_: object) -> None:
        if LEFT.layers:
            go_on.wait(10)

    handle = ours.conv.register_forward_pre_hook(wait)

    def method() -> None:
        inside.wait()
        if not torch.equal(ours.features(x), expected["features"]):
            wrong.append("features")

    def whole() -> None:
        inside.wait()
        for _ in range(20):
            y = ours(x)
            if not torch.allclose(y, expected["forward"]) or ours.norm.activation != "silu":
                wrong.append("forward")
        go_on.set()

    threads = [threading.Thread(target=each) for each in (method, whole)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    assert wrong == []
    assert ours.norm.activation == "silu"


def test_a_method_that_fails_leaves_nothing_behind() -> None:
    ours, theirs = fused_and_not()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    with pytest.raises(KeyError):
        ours.fails(x)
    assert LEFT.layers == ()
    torch.testing.assert_close(ours(x), theirs(x))
    for model in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(model.features(x), theirs.features(x))
        torch.testing.assert_close(model(x), theirs(x))


def test_compiled_forwards_and_methods_do_the_same() -> None:
    ours, theirs = fused_and_not()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for name in ("forward", "features", "forward"):
        compiled = torch.compile(getattr(ours, name), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), getattr(theirs, name)(x))
        torch.testing.assert_close(getattr(ours, name)(x), getattr(theirs, name)(x))
    assert LEFT.layers == ()


STEPS: list[Callable[[Any], object]] = [
    fold,
    partial(swap, to="group"),
    partial(nt.convert_to_domains, domains=["day", "night"], default="day"),
]


@pytest.mark.parametrize("step", STEPS)
def test_what_takes_the_place_of_a_fused_layer_leaves_its_activation_away_too(step: Callable[[Any], object]) -> None:
    ours, _ = fused_and_not()
    step(ours)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(F.silu(ours.features(x)), ours(x))


class Stem(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.GELU())

    def features(self, x: Tensor) -> Tensor:
        y: Tensor = self[1](self[0](x))
        return y


class Around(nn.Module):
    body: Any

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y

    def features(self, x: Tensor) -> Tensor:
        y: Tensor = self.body[:2](x)
        return y


class AroundByIndex(Around):
    def features(self, x: Tensor, last: int = 2) -> Tensor:
        y: Tensor = self.body[:last](x)
        return y


@pytest.mark.parametrize("kind", [Stem, Around, AroundByIndex])
def test_a_method_may_stop_in_front_of_the_activation_in_a_sequence(kind: type[nn.Module]) -> None:
    ours: Any = prepared(kind).eval()
    theirs = copy.deepcopy(ours)
    fuse(ours)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours.features(x), theirs.features(x))
    torch.testing.assert_close(ours(x), theirs(x))


class Larger(nn.Module):
    """An addition of something larger than the batch norm's output."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.silu(self.norm(x) + y)


def test_a_larger_addition_leaves_the_layer_as_it_is_for_other_threads() -> None:
    ours, theirs = fused_and_not(Larger)
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    seen: list[Any] = []
    original = type(ours.norm)._small

    def noting(self: Any, input: Tensor, residual: Tensor | None) -> Any:
        seen.append(self.activation)
        return original(self, input, residual)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(ours.norm), "_small", noting)
        torch.testing.assert_close(ours(x, y), theirs(x, y))
    assert seen == ["silu"]
    torch.testing.assert_close(ours(x, x), theirs(x, x))
