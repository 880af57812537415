"""The covariance of groups of channels, and a matrix on each group, from plain PyTorch operations.

As in ``two_pass`` the products are summed about the mean, so a mean that is large costs no digits. The small matrices
are in float64 wherever the device has it, because their algebra squares what the sums lost.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.kernels import aten, two_pass


class Gathered(NamedTuple):
    """x about its mean, and the moments of each group."""

    centred: Tensor  # the shape of x, in the dtype of the sums; 0 where nothing counts
    mean: Tensor  # (C,), without a gradient
    covariance: Tensor  # (groups, size, size), divided by ``number``
    number: int | Tensor  # of values, or the sum of their weights


def matrix_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the small matrices."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Products of matrices in half precision, as autocast would have them, have too few digits for a covariance."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def gather(x: Tensor, size: int, weights: Tensor | None = None) -> Gathered:
    """The moments of (N, C, *spatial) over all axes but the second.

    Args:
        x: values; float16 and bfloat16 are gathered in float32.
        size: of a group of channels, which divides C.
        weights: (N, 1, *spatial) or 1 in place of any of these: boolean, or how much each position counts.
    """
    over = [axis for axis in range(x.dim()) if axis != 1]
    if weights is None:
        number: int | Tensor = x.numel() // x.shape[1]
        mean = x.mean(over, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        centred = x - mean
        with torch.no_grad():  # what rounding left in it; it does not depend on x
            low = centred.mean(over, keepdim=True)
        centred = centred - low
        left = rows(centred, size)
        right = left
    else:
        found = two_pass.gather(x, weights)
        mean, low, number = found.mean, found.low, found.number
        centred = (found.centred - low).masked_fill(two_pass.blank(weights), 0)
        right = rows(centred, size)
        left = rows(centred * weights.to(centred.dtype), size)
    products = (left @ right.transpose(-1, -2)).sum(0).to(matrix_dtype(x))
    share = number.clamp(min=torch.finfo(torch.float32).tiny) if isinstance(number, Tensor) else number
    return Gathered(centred, (mean + low).detach().flatten(), products / share, number)


def rows(x: Tensor, size: int) -> Tensor:
    """(N, C, *spatial) as (blocks, groups, size, values).

    Without a copy where the channels come last, or come first with many values each: every sample is a block then, with
    a product of its own. With few, the products of all samples would cost more than to put their values side by side.
    """
    groups = x.shape[1] // size
    if not _channels_first(x):
        return x.movedim(1, -1).reshape(1, -1, groups, size).permute(0, 2, 3, 1)
    blocks = x.reshape(x.shape[0], groups, size, -1)
    if _side_by_side(x, size):
        return blocks.permute(1, 2, 0, 3).reshape(1, groups, size, -1)
    return blocks


def from_rows(found: Tensor, like: Tensor) -> Tensor:
    """Back from ``rows`` of a tensor like this one."""
    if not _channels_first(like):
        last = like.movedim(1, -1)
        return found.permute(0, 3, 1, 2).reshape(last.shape).movedim(-1, 1)
    if _side_by_side(like, found.shape[2]):
        found = found.reshape(*found.shape[1:3], like.shape[0], -1).permute(2, 0, 1, 3)
    return found.reshape(like.shape)


def _side_by_side(x: Tensor, size: int) -> bool:
    """True if all samples lie side by side in one block; their number is not used, as it may differ in a recording."""
    return math.prod(x.shape[2:]) < size


def _channels_first(x: Tensor) -> bool:
    return x.dim() > 2 and aten.memory_format(x) is torch.contiguous_format


def multiplied(matrix: Tensor, centred: Tensor) -> Tensor:
    """The matrix of each group, (groups, size, size), on its channels, in the dtype and shape of ``centred``."""
    return from_rows(matrix.to(centred.dtype) @ rows(centred, matrix.shape[-1]), centred)


def mapped(matrix: Tensor, x: Tensor, offset: Tensor) -> Tensor:
    """``multiplied``, and the offset of each channel, in one pass, for x in the dtype of the matrix.

    The products and the addition are one operation of a library, and which one is fast depends on how x lies in memory:
    where the channels come last, a convolution of 1 x 1 writes its output as x lies; ``baddbmm`` would have to turn it.

    Args:
        matrix: (groups, size, size).
        x: (N, C, *spatial).
        offset: shape (C,).

    Example:
        >>> mapped(torch.tensor([[[2.0, 0.0], [1.0, 1.0]]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.0, 10.0]))
        tensor([[ 6., 17.]])
    """
    groups, size = matrix.shape[:2]
    if x.dim() > 3 and x.dtype is torch.float32 and aten.memory_format(x) is not torch.contiguous_format:
        convolution = F.conv2d if x.dim() == 4 else F.conv3d
        return convolution(x, matrix.reshape(groups * size, size, *[1] * (x.dim() - 2)), offset, groups=groups)
    if x.dim() == 2:
        features = x.reshape(-1, groups, size).transpose(0, 1)
        found = torch.baddbmm(offset.view(groups, 1, size), features, matrix.transpose(1, 2))
        return found.transpose(0, 1).reshape(x.shape)
    parts = rows(x, size)
    shifts, each = (part.expand(parts.shape[0], *part.shape) for part in (offset.view(groups, size, 1), matrix))
    found = torch.baddbmm(shifts.flatten(0, 1), each.flatten(0, 1), parts.flatten(0, 1))
    return from_rows(found.view(parts.shape), x)
