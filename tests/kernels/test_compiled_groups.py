"""Group norm by the compiled kernels, where several channels share statistics, against the formulas in float64."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

import normwise.torch  # noqa: F401  # registers the gradients
from normwise.kernels import cpu
from normwise.kernels.choose import built
from normwise.kernels.torch_activations import activate

pytestmark = pytest.mark.skipif(not built(), reason="the compiled kernels are not built with this installation")

# one value more than vectors hold, one group, a group for each channel, more work than one thread's
SHAPES = [((2, 6, 7, 7), 3), ((3, 4, 17), 1), ((2, 5, 4, 4), 5), ((4, 8), 2), ((4, 32, 33, 33), 8), ((1, 2, 3), 2)]
DTYPES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def grouped(
    x: Tensor, residual: Tensor | None, scale: Tensor, shift: Tensor, activation: str | None, groups: int
) -> Tensor:
    keep = residual is not None and activation in cpu.ONE_BIT
    operator = torch.ops.normwise.batch_norm_forward
    number = cpu.ACTIVATIONS[activation]
    y: Tensor = operator(x, residual, None, scale, shift, None, None, 1e-5, number, keep, groups)[0]
    return y


def right(
    x: Tensor, residual: Tensor | None, scale: Tensor, shift: Tensor, activation: str | None, groups: int
) -> Tensor:
    return activate(torch.nn.functional.group_norm(x, groups, scale, shift, 1e-5), activation, residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "groups"), SHAPES)
@pytest.mark.parametrize(("activation", "added"), [*itertools.product([None, "relu", "silu"], [False, True])])
def test_outputs_and_gradients(
    size: tuple[int, ...], groups: int, activation: str | None, added: bool, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(0)
    kept = torch.promote_types(dtype, torch.float32)
    x = (3 * torch.randn(size, generator=draw) + 2).to(dtype).requires_grad_()
    residual = torch.randn(size, generator=draw).to(dtype).requires_grad_() if added else None
    scale = torch.randn(size[1], generator=draw).to(kept).requires_grad_()
    shift = torch.randn(size[1], generator=draw).to(kept).requires_grad_()
    dy = torch.randn(size, generator=draw).to(dtype)
    leaves = [tensor for tensor in (x, residual, scale, shift) if tensor is not None]
    wide = [tensor.detach().double().requires_grad_() for tensor in leaves]
    y = grouped(x, residual, scale, shift, activation, groups)
    other = right(wide[0], wide[1] if added else None, wide[-2], wide[-1], activation, groups)
    found = torch.autograd.grad(y, leaves, dy)
    expected = torch.autograd.grad(other, wide, dy.double())
    for ours, theirs in ((y, other), *zip(found, expected, strict=True)):
        bound = DTYPES[dtype] * max(1.0, float(theirs.detach().abs().max()))
        assert float((ours.detach().double() - theirs.detach()).abs().max()) <= bound


def test_second_derivatives() -> None:
    x, residual = torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    scale, shift = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (x, residual, scale, shift)]
    for activation in ("silu", "relu"):
        assert gradgradcheck(partial(grouped, activation=activation, groups=2), leaves)


@pytest.mark.parametrize("ratio", [1e3, 1e4])
def test_a_mean_far_from_zero_costs_no_digits(ratio: float) -> None:
    """PyTorch's group norm is off by 1e-3 there, and with the channels last in memory by whole standard deviations."""
    x = torch.randn(4, 64, 32, 32) + ratio
    scale, shift = torch.ones(64), torch.zeros(64)
    y = grouped(x, None, scale, shift, None, 8)
    exact = torch.nn.functional.group_norm(x.double(), 8, eps=1e-5)
    assert float((y.double() - exact).abs().max()) <= 1e-5


@pytest.mark.parametrize("size", [(0, 4, 3), (2, 0, 3), (2, 4, 0)])
def test_nothing_in_nothing_out(size: tuple[int, ...]) -> None:
    x, scale = torch.zeros(size).requires_grad_(), torch.ones(size[1]).requires_grad_()
    y = grouped(x, None, scale, torch.zeros(size[1]), "relu", 2)
    assert y.shape == size
    dx, dscale = torch.autograd.grad(y, (x, scale), torch.ones_like(y))
    assert dx.shape == size
    assert torch.equal(dscale, torch.zeros(size[1]))
