"""The compiled C++ kernels on CPU tensors: dense, channels first or last in memory, any floating dtype.

They read x from memory once, take its statistics exactly at any mean, and add the residual and activate in the same
pass. They are built when the package is installed next to PyTorch and a C++ compiler; without them all else works.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.kernels.choose import built

# Importing it registers the operators.
library: Any = import_module("normwise.kernels._torch_kernels") if built() else None

# The numbers that cpp/activations.h gives them.
ACTIVATIONS = {
    None: 0,
    "relu": 1,
    "leaky_relu": 2,
    "relu6": 3,
    "hardswish": 4,
    "elu": 5,
    "gelu": 6,
    "mish": 7,
    "sigmoid": 8,
    "silu": 9,
    "tanh": 10,
}
# Their slope is told by one bit per element, so that nothing else of the residual has to be kept for the backward.
ONE_BIT = frozenset({"relu", "leaky_relu", "relu6"})


class Forward(NamedTuple):
    """What the forward gives: the output, the statistics that it used in float64, and the bits for the backward."""

    y: Tensor
    mean: Tensor
    var: Tensor
    bits: Tensor


def serves(x: Tensor) -> bool:
    """Whether the kernels take this tensor as it lies in memory: contiguous, or channels last as PyTorch has it."""
    if x.is_contiguous():
        return True
    if x.dim() == 4:
        return x.is_contiguous(memory_format=torch.channels_last)
    return x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)


def forward(
    x: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: str | None,
    keep_bits: bool,
    groups: int = 0,
) -> Forward:
    """``reference.forward_batch``, or ``forward_fixed`` where statistics are given.

    Args:
        x: (N, C, *spatial), what ``serves`` takes.
        residual: added before the activation, the shape of x.
        mask: boolean, (N or 1, 1, *spatial or 1); where it is False, x does not count and y is 0.
        scale: shape (C,), any floating dtype, or None for 1.
        shift: shape (C,), or None for 0.
        mean: shape (C,), or None to normalize by the batch.
        var: shape (C,), with ``mean``.
        eps: added to the variance.
        activation: a name of ``ACTIVATIONS``.
        keep_bits: whether to keep the bits that ``backward`` wants where there is a residual before a ``ONE_BIT``.
        groups: not 0 for group norm: each sample's channels in so many groups, whose values are gathered together. Then
            x is contiguous, there is no mask and no statistics, and mean and var come out with N * C entries.
    """
    operator = torch.ops.normwise.batch_norm_forward
    number = ACTIVATIONS[activation]
    return Forward(*operator(x, residual, mask, scale, shift, mean, var, eps, number, keep_bits, groups))


def move_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, population: float, weight_of_new: float
) -> int | None:
    """One step of ``estimators.ema`` in place, in a microsecond instead of a dozen operations.

    A channel that would not be finite after it stays as it is.

    Args:
        running_mean: shape (C,), moved towards ``mean``.
        running_var: shape (C,), moved towards ``population * var``.
        mean: shape (C,), from ``forward``.
        var: shape (C,), from ``forward``.
        population: n/(n-1), as ``Moments`` has it.
        weight_of_new: how far.

    Returns:
        how many channels stayed as they were, or None where the tensors are not plain ones and nothing was done.
    """
    running = _addresses(running_mean, running_var)
    if running is None or mean.dtype is not torch.float64 or not (mean.is_contiguous() and var.is_contiguous()):
        return None
    left_out: int = library.move_running(
        *running, mean.data_ptr(), var.data_ptr(), float(population), float(weight_of_new)
    )
    return left_out


def remember(running_mean: Tensor, running_var: Tensor) -> tuple[int, int, int, bool] | None:
    """Keep a copy of running statistics on this thread, for ``restore_if_not_finite``.

    Returns:
        what that is to be called with, or None where they are not plain or nothing is built, and nothing was done.
    """
    running = None if library is None else _addresses(running_mean, running_var)
    if running is not None:
        library.remember(*running)
    return running


def restore_if_not_finite(running: tuple[int, int, int, bool]) -> int:
    """Put the copy in the place of the channels that are no longer finite; returns how many they are."""
    restored: int = library.restore_if_not_finite(*running)
    return restored


def _addresses(running_mean: Tensor, running_var: Tensor) -> tuple[int, int, int, bool] | None:
    dtype = running_mean.dtype
    if (dtype is not torch.float32 and dtype is not torch.float64) or running_var.dtype is not dtype:
        return None
    if not (running_mean.is_cpu and running_var.is_cpu):
        return None
    if not (running_mean.is_contiguous() and running_var.is_contiguous()) or running_mean.shape != running_var.shape:
        return None
    return running_mean.data_ptr(), running_var.data_ptr(), running_mean.numel(), dtype is torch.float64


def instruction_set() -> str:
    """The instruction set that the kernels use on this processor, for example ``avx512``."""
    assert library is not None
    name: str = library.instruction_set()
    return name


def pool() -> dict[str, Any]:
    """The memory pool behind large outputs: bytes at most, kept and lent, and blocks reused and fresh."""
    assert library is not None
    return dict(zip(("limit", "kept", "lent", "reused", "fresh"), library.pool_state(), strict=True))
