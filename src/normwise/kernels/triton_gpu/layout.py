"""The layout of a dense tensor in memory, and of the tensors beside it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from normwise.kernels.triton_gpu.plan import View, view_of


def lies_last(x: Tensor) -> bool:
    """True if a dense x has its channels last in memory, or if they have one place each.

    Example:
        >>> lies_last(torch.zeros(2, 3, 4)), lies_last(torch.zeros(2, 3)), lies_last(torch.zeros(2, 3, 1))
        (False, True, True)
    """
    return math.prod(x.shape[2:]) == 1 or (not x.is_contiguous() and x.stride(1) == 1)


def view(x: Tensor) -> View:
    """The matrix that a dense x is."""
    return view_of(x.shape, x.element_size(), last=lies_last(x))


def like(tensor: Tensor, x: Tensor) -> Tensor:
    """The tensor as x lies in memory, a copy where it lies differently."""
    same = tensor.stride() == x.stride() or (tensor.is_contiguous() and x.is_contiguous())
    return tensor if same else torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)


def bytes_per_value(mask: Tensor, x: Tensor) -> Tensor:
    """The bytes of a mask as the kernels read it.

    Of a mask that all channels share it is one for each value of a channel, samples first; of one for each channel it
    is one for each value of x, laid as x is.
    """
    there = mask if mask.dtype is torch.bool else mask != 0
    if has_each(mask):
        return torch.empty_like(x, dtype=torch.bool).copy_(there).view(torch.uint8)
    return there.expand(x.shape[0], 1, *x.shape[2:]).contiguous().view(torch.uint8)


def has_each(mask: Tensor) -> bool:
    """True for a mask that is not the same for all channels."""
    return mask.shape[1] > 1


def number_of_bytes(shape: Any, *, last: bool) -> Any:
    """The number of bytes that hold one bit per element: whole bytes for each row.

    Example:
        >>> number_of_bytes((2, 3, 9), last=False), number_of_bytes((2, 3, 9), last=True)
        (12, 18)
    """
    places = math.prod(shape[2:])
    rows, width = (shape[0] * places, shape[1]) if last else (shape[0] * shape[1], places)
    return rows * ((width + 7) // 8)
