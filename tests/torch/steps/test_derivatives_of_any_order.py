"""Third and higher derivatives: right on every kernel, where PyTorch's own are wrong or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.kernels import choose
from normwise.torch.functional import batch_norm
from normwise.torch.layers.batch_norm import TORCH_HAS_BIAS
from normwise.torch.steps import any_order

KERNELS = ["aten", "two_pass", *(["cpu"] if choose.built() else [])]
SHAPE = (5, 2, 3)


def tensor(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Written out with operations whose derivatives nobody doubts."""
    mean = x.mean((0, 2), keepdim=True)
    var = (x - mean).pow(2).mean((0, 2), keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * weight.view(1, -1, 1) + bias.view(1, -1, 1)


def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return nn.functional.batch_norm(x, None, None, weight, bias, training=True)


def ours(x: Tensor, weight: Tensor, bias: Tensor, **extras: Any) -> Tensor:
    return batch_norm(x, torch.zeros(2).double(), torch.ones(2).double(), weight, bias, training=True, **extras)


def derivatives(f: Callable[..., Tensor], order: int = 4) -> list[list[Tensor]]:
    """Directional derivatives of a loss in all inputs, of every order up to this one."""
    inputs = [tensor(*SHAPE, seed=0), tensor(2, seed=1), tensor(2, seed=2)]
    inputs = [each.requires_grad_() for each in inputs]
    value = (f(*inputs).sin() * tensor(*SHAPE, seed=3)).sum()
    found = []
    for step in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True)
        found.append([gradient.detach() for gradient in gradients])
        value = torch.stack(
            [(g * tensor(*g.shape, seed=10 * step + number)).sum() for number, g in enumerate(gradients)]
        ).sum()
    return found


def assert_right(f: Callable[..., Tensor], right: Callable[..., Tensor] = by_hand, order: int = 4) -> None:
    for found, expected in zip(derivatives(f, order), derivatives(right, order), strict=True):
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


def test_torchs_third_derivative_is_wrong_or_refused() -> None:
    # Should this fail, torch has put it right, and normwise.torch.steps.any_order is no longer wanted.
    right = derivatives(by_hand, 3)
    torch.testing.assert_close(derivatives(torchs, 2)[1], right[1])
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):
        with pytest.raises(RuntimeError, match=r"does not support 3rd\+ order derivatives"):
            derivatives(torchs, 3)
    else:
        assert float((derivatives(torchs, 3)[2][0] - right[2][0]).abs().max()) > 0.1


@pytest.mark.parametrize("kernel", KERNELS)
def test_ours_are_right_on_every_kernel(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    assert_right(ours)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "silu"])
def test_with_an_activation_and_a_residual(activation: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    residual = tensor(*SHAPE, seed=5)
    functions = {"tanh": torch.tanh, "relu": torch.relu, "silu": nn.functional.silu}
    assert_right(
        lambda *inputs: ours(*inputs, activation=activation, residual=residual),
        lambda *inputs: functions[activation](by_hand(*inputs) + residual),
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_in_inference(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", kernel)
    mean, var = tensor(2, seed=6), tensor(2, seed=7).square() + 0.5
    along = (1, -1, 1)
    assert_right(
        lambda x, weight, bias: batch_norm(x, mean, var, weight, bias),
        lambda x, weight, bias: (
            (x - mean.view(along)) / (var.view(along) + 1e-5).sqrt() * weight.view(along) + bias.view(along)
        ),
    )


WITHOUT_BIAS = [{"bias": False}] if TORCH_HAS_BIAS else []


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"affine": False}, *WITHOUT_BIAS], ids=str)
def test_layers(settings: dict[str, Any]) -> None:
    layer = nt.BatchNorm1d(2, dtype=torch.float64, **settings)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = layer(x)
        return y + 0 * weight.sum() + 0 * bias.sum()

    def right(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return by_hand(x, torch.ones_like(weight), torch.zeros_like(bias)) + 0 * weight.sum() + 0 * bias.sum()

    assert_right(call, right)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_when_only_some_gradients_are_wanted(wanted: tuple[int, ...]) -> None:
    results = []
    for f in (ours, by_hand):
        inputs = [tensor(*SHAPE, seed=0), tensor(2, seed=1), tensor(2, seed=2)]
        chosen = [inputs[number].requires_grad_() for number in wanted]
        value = (f(*inputs).pow(4)).sum()
        found: tuple[Tensor, ...] = ()
        for _ in range(3):
            found = torch.autograd.grad(value, chosen, create_graph=True)
            value = torch.stack([each.pow(2).sum() for each in found]).sum()
        results.append(found)
    torch.testing.assert_close(*results)


def test_second_derivatives_by_finite_differences_in_a_small_layer() -> None:
    layer = nt.BatchNorm1d(2, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(layer, tensor(4, 2, seed=0).requires_grad_())


def test_a_graph_that_is_used_again() -> None:
    x = tensor(*SHAPE, seed=0).requires_grad_()
    y = ours(x, tensor(2, seed=1), tensor(2, seed=2)).pow(3).sum()
    (plain,) = torch.autograd.grad(y, x, retain_graph=True)
    for _ in range(2):
        (with_graph,) = torch.autograd.grad(y, x, create_graph=True)
        torch.testing.assert_close(plain, with_graph)
    (again,) = torch.autograd.grad(y, x)
    assert torch.equal(plain, again)


def test_hooks_of_the_users_stay_their_own() -> None:
    seen: list[int] = []
    weight, bias = tensor(2, seed=1), tensor(2, seed=2)
    first, second = (ours(tensor(*SHAPE, seed=0).requires_grad_(), weight, bias) for _ in range(2))
    handle = first.register_hook(lambda _: seen.append(1))
    second.sum().backward()
    assert seen == []
    first.sum().backward()
    assert seen == [1]
    handle.remove()
    assert first._backward_hooks == {}
    first.retain_grad()


def test_under_a_checkpoint_the_second_is_right_and_the_third_is_refused() -> None:
    layer = nt.BatchNorm1d(2, dtype=torch.float64)
    results = []
    for call in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        x = tensor(*SHAPE, seed=0).requires_grad_()
        (first,) = torch.autograd.grad(call(x).pow(4).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.pow(2).sum(), x)[0])
    torch.testing.assert_close(*results)
    x = tensor(*SHAPE, seed=0).requires_grad_()
    y = checkpoint(layer, x, use_reentrant=False)
    (first,) = torch.autograd.grad(y.pow(4).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError) as refused:
        torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    assert str(refused.value) == any_order.REFUSAL


def test_what_is_kept_for_the_backward_is_no_more_than_before() -> None:
    packed: list[tuple[int, ...]] = []
    layer, plain = nt.BatchNorm1d(2), nn.BatchNorm1d(2)
    counts = []
    for one in (layer, plain):
        packed.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t, lambda t: t):  # type: ignore[func-returns-value]
            one(torch.randn(4, 2).requires_grad_())
        counts.append(len(packed))
    assert counts[0] == counts[1]
