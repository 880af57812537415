"""Gradients of every order on every path, what is saved for them, and what autograd has to refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import normwise.torch as nt
from normwise.kernels import choose, cpu
from normwise.torch.functional import batch_norm

KERNELS = ["aten", "two_pass", "cpu"]
SMOOTH = ["gelu", "mish", "sigmoid", "silu", "tanh"]
KINKED = ["elu", "hardswish", "leaky_relu", "relu", "relu6"]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every call goes to this kernel."""
    monkeypatch.setattr(choose, "_ASKED", request.param)
    return str(request.param)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    """Float64 values with a gradient."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and residual."""
    return leaf(2, 2, 3), leaf(2, seed=1), leaf(2, seed=2), leaf(2, 2, 3, seed=3)


MASK = torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.bool)


def assert_derivatives(training: bool, activation: str | None, residual: bool, mask: Tensor | None) -> None:
    """The first and the second derivative for every input, by finite differences."""
    mean, var = torch.randn(2, dtype=torch.float64), torch.rand(2, dtype=torch.float64) + 0.5

    def function(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
        return batch_norm(
            x, mean.clone(), var.clone(), weight, bias, training,
            activation=activation, residual=other if residual else None, mask=mask,
        ) + (0 if residual else other)  # fmt: skip

    assert torch.autograd.gradcheck(function, inputs())
    assert torch.autograd.gradgradcheck(function, inputs(), fast_mode=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", [None, *SMOOTH, *KINKED])
def test_first_and_second_derivatives(activation: str | None, residual: bool, training: bool, kernel: str) -> None:
    assert kernel in KERNELS
    assert_derivatives(training, activation, residual, None)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", [None, "silu", "relu"])
def test_first_and_second_derivatives_with_a_mask(activation: str | None, residual: bool, training: bool) -> None:
    assert_derivatives(training, activation, residual, MASK)


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch norm from operations that autograd differentiates as often as asked."""
    mean = x.mean((0, 2), keepdim=True)
    var = (x - mean).square().mean((0, 2), keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * weight.view(1, -1, 1) + bias.view(1, -1, 1)


@pytest.mark.parametrize("mask", [None, torch.ones(2, 3, dtype=torch.bool)], ids=["", "mask"])
def test_the_third_derivative(mask: Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "two_pass")
    results = []
    for ours in (True, False):
        tensors = x, weight, bias = inputs()[:3]
        y = batch_norm(x, None, None, weight, bias, True, mask=mask) if ours else plain(x, weight, bias)
        value = y.pow(3).sum()
        for order in range(3):
            gradients = torch.autograd.grad(value, tensors, create_graph=True)
            value = sum((g * torch.linspace(1, 2, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in gradients)  # type: ignore[assignment]  # never the int 0
            results.append((order, gradients))
    for (order, found), (_, right) in zip(results[:3], results[3:], strict=True):
        for mine, other in zip(found, right, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8, msg=f"order {order + 1}")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "needed", [(True, False, False), (False, True, False), (False, False, True), (True, True, False)]
)
def test_only_what_is_needed_gets_a_gradient(needed: tuple[bool, ...], order: int, kernel: str) -> None:
    tensors = inputs()[:3]
    whole = batch_norm(tensors[0], None, None, tensors[1], tensors[2], True).pow(2).sum()
    everything = torch.autograd.grad(whole, tensors)
    frozen = [tensor.detach().requires_grad_(wanted) for tensor, wanted in zip(tensors, needed, strict=True)]
    loss = batch_norm(frozen[0], None, None, frozen[1], frozen[2], True).pow(2).sum()
    if order == 2:
        wanted = [tensor for tensor in frozen if tensor.requires_grad]
        found = torch.autograd.grad(loss, wanted, create_graph=True)
    else:
        loss.backward()
        assert [tensor.grad is not None for tensor in frozen] == [*needed], kernel
        found = tuple(tensor.grad for tensor in frozen if tensor.grad is not None)
    right = [gradient for gradient, wanted in zip(everything, needed, strict=True) if wanted]
    torch.testing.assert_close([*found], right)


def test_nothing_is_recorded_where_nothing_is_asked(kernel: str) -> None:
    layer = nt.BatchNorm1d(2, activation="relu").double()
    x = leaf(2, 2, 3)
    with torch.no_grad():
        assert not layer(x).requires_grad
    with torch.inference_mode():
        y = layer(x)
    assert y.is_inference(), kernel
    assert int(layer.state_dict()["num_batches_tracked"]) == 2
    assert layer(x).requires_grad  # what was updated in inference mode is still usable
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert not layer(x.detach()).requires_grad


def test_backward_twice(kernel: str) -> None:
    x, weight, bias, residual = inputs()
    loss = batch_norm(x, None, None, weight, bias, True, activation="silu", residual=residual).pow(2).sum()
    first = torch.autograd.grad(loss, (x, weight, bias, residual), retain_graph=True)
    second = torch.autograd.grad(loss, (x, weight, bias, residual))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        torch.autograd.grad(loss, x)
    assert kernel in KERNELS


@pytest.mark.parametrize("changed", ["x", "weight"])
def test_a_value_changed_before_backward_gives_no_wrong_gradient(changed: str, kernel: str) -> None:
    """Refused where the value was kept; where it was not (two_pass keeps x less its mean), the gradient is right."""
    x, weight, bias, _ = inputs()
    right = torch.autograd.grad(batch_norm(x, None, None, weight, bias, True).pow(2).sum(), x)[0]
    loss = batch_norm(x, None, None, weight, bias, True).pow(2).sum()
    with torch.no_grad():
        {"x": x, "weight": weight}[changed].add_(1)
    if (changed, kernel) == ("x", "two_pass"):
        loss.backward()
        torch.testing.assert_close(x.grad, right)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "tanh"])
def test_the_inputs_are_left_as_they_are(
    activation: str | None, mask: Tensor | None, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel in ("", "two_pass"):
        monkeypatch.setattr(choose, "_ASKED", kernel)
        x, weight, bias, residual = (tensor.detach() for tensor in inputs())
        before = [tensor.clone() for tensor in (x, weight, bias, residual)]
        versions = [tensor._version for tensor in (x, weight, bias, residual)]
        mean, var = torch.zeros(2).double(), torch.ones(2).double()
        y = batch_norm(x, mean, var, weight, bias, training, activation=activation, residual=residual, mask=mask)
        assert y.data_ptr() not in (x.data_ptr(), residual.data_ptr())
        for tensor, copy, version in zip((x, weight, bias, residual), before, versions, strict=True):
            assert torch.equal(tensor, copy)
            assert tensor._version == version


def saved(layer: torch.nn.Module, x: Tensor, **extras: Any) -> int:
    """The number of tensors of the size of x that are kept for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x, **extras)
    assert y.requires_grad
    large = [size for size in kept.values() if size >= x.numel() * x.element_size()]
    bits = x.numel() // 8 if "residual" in extras and layer.activation in cpu.ONE_BIT else 0
    assert sum(kept.values()) - sum(large) <= 12 * 8 * x.shape[1] + bits
    return len(large)


@pytest.mark.parametrize(
    ("activation", "count"),
    [(None, 1), ("relu", 2), ("leaky_relu", 2), ("sigmoid", 2), ("tanh", 2), ("relu6", 2)],
)
def test_no_more_is_saved_than_x_and_what_the_activation_needs(activation: str | None, count: int, kernel: str) -> None:
    x = torch.randn(16, 4, 16, 16, requires_grad=True)
    layer = nt.BatchNorm2d(4, activation=activation)
    # The compiled kernels keep x only, and one bit per element where there is a residual before a kink.
    only_x = kernel == "cpu"
    assert saved(layer, x) <= (1 if only_x else count), kernel
    assert saved(layer, x, residual=torch.randn_like(x)) <= (1 if only_x and activation in cpu.ONE_BIT else count)


@pytest.mark.parametrize("second", ["mask", "larger and channels last", "momentum=None", "inference"])
def test_two_forwards_by_different_paths_before_one_backward(second: str) -> None:
    # As a head that is shared by feature maps of several sizes, or a siamese network, does.
    layer = nt.BatchNorm2d(3)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    alone = torch.autograd.grad(nt.BatchNorm2d(3)(x).pow(3).sum(), x)[0]
    first = layer(x).pow(3).sum()
    other = torch.randn(2, 3, 8, 8)
    if second == "mask":
        layer(other, mask=torch.ones(2, 8, 8, dtype=torch.bool))
    elif second == "larger and channels last":
        layer(torch.randn(2, 3, 40, 40).contiguous(memory_format=torch.channels_last))
    elif second == "momentum=None":
        layer.momentum = None
        layer(other)
    else:
        layer.eval()
        layer(other)
    first.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, alone)


def test_inference_and_a_training_step_before_one_backward() -> None:
    for mask in (None, torch.ones(2, 8, 8, dtype=torch.bool)):
        layer = nt.BatchNorm2d(3, momentum=None).eval()
        x = torch.randn(2, 3, 8, 8, requires_grad=True)
        twice = layer(x, mask=mask)
        layer.train()
        layer(torch.randn(2, 3, 8, 8))
        twice.sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, torch.full_like(x, (1 + 1e-5) ** -0.5))


def test_activation_checkpointing() -> None:
    x = torch.randn(4, 3, 5, requires_grad=True)
    layer, plain_layer = nt.BatchNorm1d(3, activation="silu"), nt.BatchNorm1d(3, activation="silu")
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    (found,) = torch.autograd.grad(y.pow(2).sum(), x)
    (right,) = torch.autograd.grad(plain_layer(x).pow(2).sum(), x)
    torch.testing.assert_close(found, right, rtol=0, atol=0)
