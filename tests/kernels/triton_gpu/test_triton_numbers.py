"""Moments where sums lose digits, what must not count, and results that are the same in every run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from normwise.kernels.activation_numbers import number_of
from normwise.kernels.kernel import Call
from normwise.kernels.triton_gpu import launch
from normwise.torch.steps.triton_operators import TritonGpu
from tests.cases import LAYOUTS
from tests.kernels.triton_gpu.cut import CUTS, cut
from tests.kernels.triton_gpu.device import DEVICE

__all__ = ["cut"]

KERNEL = TritonGpu()
FEW = ["one launch", "two launches", "by the last one", "long loops"]  # of the cuts


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE)


def relative_errors(x: Tensor, mask: Tensor | None = None) -> tuple[float, float]:
    """The relative errors of the mean, in standard deviations, and of the variance."""
    found = KERNEL.moments(Call(x, mask))
    wide = x.double()
    weights = torch.ones_like(wide) if mask is None else mask.expand(x.shape).double()
    axes = [0, *range(2, x.dim())]
    count = weights.sum(axes)
    mean = (wide * weights).sum(axes) / count
    apart = wide - mean.view(1, -1, *[1] * (x.dim() - 2))
    var = (apart.square() * weights).sum(axes) / count
    off_mean = ((found.mean - mean).abs() / var.sqrt()).max()
    return float(off_mean), float(((found.var - var).abs() / var).max())


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("ratio", [1e4, 1e6])
def test_a_mean_that_is_huge_against_the_spread(
    ratio: float, layout: str, how: str, cut: Callable[[str], None]
) -> None:
    cut(how)
    x = LAYOUTS[layout](drawn(6, 2, 4, 9) + ratio).float()
    mean, var = relative_errors(x)
    assert mean < 1e-6
    assert var < 1e-6


@pytest.mark.parametrize("how", FEW)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("first", ["another level", "one value far away", "zeros"])
def test_the_order_of_the_values_costs_no_digits(first: str, layout: str, how: str, cut: Callable[[str], None]) -> None:
    """A shift that the first values have chosen would be wrong for all others."""
    x = drawn(8, 2, 4, 9) + 50
    if first == "another level":
        x[0] -= 1e4
    elif first == "zeros":
        x[:2] = 0
    else:
        x[0, :, 0, 0] = 3e3
    cut(how)
    mean, var = relative_errors(LAYOUTS[layout](x).float())
    assert mean < 1e-6
    assert var < 1e-6


@pytest.mark.parametrize("how", FEW)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_mask_that_leaves_out_the_first_samples_of_a_large_mean(
    layout: str, how: str, cut: Callable[[str], None]
) -> None:
    cut(how)
    x = LAYOUTS[layout](drawn(6, 2, 4, 9) + 1e4).float()
    mask = torch.ones(6, 1, 4, 9, dtype=torch.bool, device=DEVICE)
    mask[:3] = False
    x.masked_fill_(~mask, math.nan)
    mean, var = relative_errors(x.nan_to_num(0.0), mask)
    assert mean < 1e-6
    assert var < 1e-6
    assert torch.equal(KERNEL.moments(Call(x, mask)).mean, KERNEL.moments(Call(x.nan_to_num(7.0), mask)).mean)


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (1, 1, 4, 1), (3, 1, 4, 5), (1, 1, 1, 5)])
@pytest.mark.parametrize("how", ["one launch", "two launches"])
def test_a_mask_of_any_shape_that_broadcasts(shape: tuple[int, ...], how: str, cut: Callable[[str], None]) -> None:
    cut(how)
    x = drawn(3, 2, 4, 5).float()
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6).to(DEVICE)
    mask.view(-1)[:2] = True
    y, batch = KERNEL.forward_batch(Call(x, mask))
    whole, full = KERNEL.forward_batch(Call(x, mask.expand(3, 1, 4, 5).contiguous()))
    assert torch.equal(y, whole)
    assert torch.equal(batch.mean, full.mean)
    assert float(batch.count) == float(full.count) == float(mask.expand(3, 1, 4, 5).sum())
    assert torch.all(y.masked_select(~mask) == 0)


@pytest.mark.parametrize("how", FEW)
def test_where_nothing_counts_all_is_zero(how: str, cut: Callable[[str], None]) -> None:
    cut(how)
    x = torch.full((2, 3, 4), math.nan, device=DEVICE)
    mask = torch.zeros(2, 1, 4, dtype=torch.bool, device=DEVICE)
    y, mean, var, _ = launch.forward(x, x, mask, None, None, None, None, 1e-5, number_of("relu"), True)
    assert [float(found.abs().sum()) for found in (y, mean, var)] == [0.0, 0.0, 0.0]
    bits = torch.zeros(6, dtype=torch.uint8, device=DEVICE)
    found = launch.backward(x, x, None, mask, None, None, mean, var, bits, 1e-5, number_of("relu"), True, True, True)
    assert [float(gradient.abs().sum()) for gradient in found] == [0.0] * 4


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("how", ["one launch", "two launches"])
def test_what_is_not_finite_stays_in_its_channel(value: float, how: str, cut: Callable[[str], None]) -> None:
    cut(how)
    x = drawn(3, 2, 5).float()
    alone, _ = KERNEL.forward_batch(Call(x))
    x[0, 0, 0] = value
    with np.errstate(invalid="ignore"):  # the interpreter is NumPy, which warns of infinity - infinity
        y, batch = KERNEL.forward_batch(Call(x, activation="relu"))
    assert bool(y[:, 0].isnan().all())
    assert bool(batch.var[0].isnan())
    assert torch.equal(y[:, 1], alone[:, 1].relu())


def test_a_batch_without_samples() -> None:
    x = torch.zeros(0, 3, 4, device=DEVICE, requires_grad=True)
    y, batch = KERNEL.forward_batch(Call(x, scale=torch.ones(3, device=DEVICE, requires_grad=True)))
    y.sum().backward()
    assert (y.shape, batch.count, batch.mean.tolist()) == ((0, 3, 4), 0, [0.0] * 3)
    assert x.grad is not None


@pytest.mark.parametrize("how", FEW)
def test_the_same_call_gives_the_same_bits(how: str, cut: Callable[[str], None]) -> None:
    cut(how)
    x = drawn(4, 3, 5, 7).float()
    (first, batch), (second, again) = (KERNEL.forward_batch(Call(x)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(batch.var, again.var)


def test_bfloat16_is_rounded_once() -> None:
    """Normalization, addition and activation are in float32, and what is stored is rounded.

    A GPU rounds to even (``tests/benchmarks/test_gpu_binaries.py`` sees the instruction), Triton's interpreter to zero.
    """
    x, residual = (drawn(4, 3, 5, seed=seed).bfloat16() for seed in (0, 1))
    mean, var = torch.zeros(3, device=DEVICE), torch.ones(3, device=DEVICE)
    y = KERNEL.forward_running(Call(x, None, mean, var, eps=0.0, activation="relu", residual=residual))
    right = (x.float() + residual.float()).relu()
    rounded = right.bfloat16() if DEVICE == "cuda" else (right.view(torch.int32) & -(2**16)).view(torch.float32)
    assert torch.equal(y.float(), rounded.float())
