"""The compiled C++ kernels on CPU tensors: dense, channels first or last in memory, any floating dtype.

They read x from memory once, take its statistics exactly at any mean, and add the residual and activate in the same
pass. They are built when the package is installed next to PyTorch and a C++ compiler; without them
everything else works.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.kernels.activation_numbers import ACTIVATIONS as ACTIVATIONS
from normwise.kernels.activation_numbers import ONE_BIT as ONE_BIT
from normwise.kernels.activation_numbers import has_one_bit as has_one_bit
from normwise.kernels.activation_numbers import is_exact as is_exact
from normwise.kernels.activation_numbers import name_of as name_of
from normwise.kernels.activation_numbers import number_of as number_of
from normwise.kernels.aten import memory_format, with_plain_strides
from normwise.kernels.choose import built

# Importing it registers the operators.
library: Any = import_module("normwise.kernels._torch_kernels") if built() else None


class Forward(NamedTuple):
    """The results of the forward: the output, the statistics that it used in float64, and the bits for the backward."""

    y: Tensor
    mean: Tensor
    var: Tensor
    bits: Tensor


def serves(x: Tensor) -> bool:
    """True if the kernels take this tensor as it lies in memory: contiguous, or channels last as PyTorch has it."""
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
    save_bits: bool,
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
        activation: a name of ``ACTIVATIONS``, with its setting where it has one.
        save_bits: whether to save the bits that ``backward`` wants where there is a residual before a ``ONE_BIT``.
        groups: not 0 for group norm: each sample's channels in so many groups, whose values are gathered together. Then
            x is contiguous, there is no mask and no statistics, and mean and var come out with N * C entries.
    """
    operator = torch.ops.normwise.batch_norm_forward
    number = number_of(activation)
    return Forward(*operator(x, residual, mask, scale, shift, mean, var, eps, number, save_bits, groups))


def dense(x: Tensor) -> Tensor:
    """A tensor that ``serves`` takes: x itself, or a copy in its memory format."""
    if x.is_contiguous():
        return x
    x = with_plain_strides(x)
    return x if serves(x) else x.contiguous(memory_format=memory_format(x))


def instruction_set() -> str:
    """The instruction set that the kernels use on this processor, for example ``avx512``."""
    assert library is not None
    name: str = library.instruction_set()
    return name


def pool() -> dict[str, Any]:
    """The memory pool behind large outputs: bytes at most, kept and lent, and blocks reused and fresh."""
    assert library is not None
    return dict(zip(("limit", "kept", "lent", "reused", "fresh"), library.pool_state(), strict=True))
