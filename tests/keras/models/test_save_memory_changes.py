"""``save_memory`` on Keras's torch backend where tensors change in place, and gradients are derived again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from keras import layers, ops

import normwise.keras as nk
from normwise.keras.models.save_memory import save_memory
from tests.keras.calls import BACKEND

if BACKEND != "torch":
    pytest.skip("other backends refuse it: test_save_memory_elsewhere.py", allow_module_level=True)

import torch
from torch import Tensor

from normwise.kernels import choose
from normwise.torch.models.memory import recipes, rows
from tests.keras.models.networks_that_save_memory import (
    Changing,
    assert_same_bits,
    compared,
    images,
    made,
    sequential,
    trained,
    treat_as_large,
)

needs_kernels = pytest.mark.skipif(not choose.built(), reason="the compiled kernels are not built")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    treat_as_large(monkeypatch)


def unseen(y: Tensor) -> None:
    with torch.no_grad():
        y.mul_(0.5)


def other_memory(y: Tensor) -> None:
    y.data = y.detach() * 3


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "seen": lambda y: y.mul_(0.5),
    "of a part": lambda y: y[0].zero_(),
    "unseen by autograd": unseen,
    "other memory": other_memory,
}


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_output_that_was_changed_in_place_is_saved_as_it_is_then(name: str, activation: str | None) -> None:
    def make() -> Any:
        def change(y: Tensor) -> None:
            if isinstance(y, Tensor) and y.grad_fn is not None:
                CHANGES[name](y)

        stack = [layers.Conv2D(4, 1), nk.BatchNormalization(), *([layers.Activation(activation)] if activation else [])]
        return sequential(*stack, Changing(change), layers.Conv2D(4, 1))

    report = compared(make, images())
    assert len(report.saved) + len(report.kept) == 1


def test_a_change_of_what_stands_between_two_copies_is_not_passed_over() -> None:
    """A function of the user's own is not trusted, in whatever layer it is called."""

    def sly(x: Any) -> Any:
        z = ops.copy(x)
        if isinstance(z, Tensor):
            with torch.no_grad():
                z.mul_(0.5)
            z = z.clone()
        return z

    class Sly(layers.Conv2D):
        def call(self, x: Any) -> Any:
            return super().call(sly(x))

    compared(
        lambda: sequential(
            nk.BatchNormalization(), layers.Activation(sly), layers.Conv2D(4, 1), nk.BatchNormalization(), Sly(4, 1)
        ),
        images(),
    )

    x = images()
    model, twin = (
        made(lambda: sequential(nk.BatchNormalization(activation="silu"), layers.Conv2D(4, 1)), x) for _ in range(2)
    )
    save_memory(twin)
    for each in (model, twin):
        each.layers[1].register_forward_pre_hook(lambda _, given: unseen(given[0]))
    assert_same_bits(trained(twin, x), trained(model, x))


@pytest.mark.parametrize("name", ["seen", "of a part", "unseen by autograd"])
def test_a_change_in_place_of_what_was_saved_is_an_error_as_without(name: str) -> None:
    class Squaring(layers.Layer):
        def call(self, x: Any) -> Any:
            y = ops.square(x)
            if isinstance(x, Tensor) and x.grad_fn is not None:
                CHANGES[name](x)
            return y

    x = images()
    model = made(lambda: sequential(nk.BatchNormalization(), Squaring()), x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(model, x)
    save_memory(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(model, x)


def test_second_derivatives_and_a_graph_that_is_kept() -> None:
    x = images()
    found: list[Any] = []
    for saves in (False, True):
        model = made(lambda: sequential(layers.Conv2D(4, 1), nk.BatchNormalization(), layers.Conv2D(2, 1)), x)
        if saves:
            save_memory(model)
        given = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(given, training=True).square().sum(), given, create_graph=True)
        slope.square().sum().backward(retain_graph=True)
        slope.square().sum().backward()
        found.append(given.grad)
    assert recipes.same_bits(*found)


def test_rows_are_read_as_they_were_done() -> None:
    """Every operation in a row, back to the same bits and the same strides; whatever else stands there ends it."""
    source = torch.randn(2, 3, 4, 5, requires_grad=True) * 1
    pad = torch.nn.functional.pad

    def made_again(y: Tensor) -> bool:
        operations = rows.read(y, source)
        if operations is None:
            return False
        layout = rows.Layout(y.shape, y.stride())
        return recipes.same_bits(rows.run(source.detach(), operations, layout), y.detach())

    last = torch.channels_last
    assert made_again(source.permute(0, -1, 1, -2).contiguous().contiguous(memory_format=last))
    assert made_again(source.permute(0, 2, 3, 1).contiguous())
    assert made_again(source.movedim(1, -1).reshape(-1, 3).clone())
    assert made_again(source.transpose(-1, 1).reshape(2, -1))
    assert made_again(pad(source.relu().mT, (1, 0, -1, 2)).view(4, -1))
    assert made_again(torch.nn.functional.leaky_relu(source, 0.3).permute(3, 2, 1, 0))
    assert not made_again(source * 1.0)
    assert not made_again(source[:, :2].clone())
    assert not made_again((source * 1.0).relu())
