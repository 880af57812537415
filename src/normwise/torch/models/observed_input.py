"""What of a batch norm's input its moments do not tell: constant ends, and how it varies along each axis."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normwise.facts import Input
from normwise.moments import Moments

LOOKED_AT = 32
"""Samples of a batch that are looked at value by value, at most."""


def input_of(x: Tensor) -> Input:
    """The description of an input.

    Args:
        x: shape (N, C, ...), not empty.
    """
    some = x[:LOOKED_AT].detach().double()
    dtype = str(x.dtype).removeprefix("torch.")
    if some.dim() < 3:
        unknown = np.full(len(some), np.nan)
        return Input(tuple(x.shape), 1, float(x.abs().max()), dtype, unknown, unknown)
    axis = max(range(2, some.dim()), key=lambda each: some.shape[each])
    tails = _constant(some.flip(axis), axis)
    inside = torch.arange(some.shape[axis], device=some.device) < (some.shape[axis] - tails)[:, None]
    mask = inside.reshape(len(some), *(some.shape[axis] if each == axis else 1 for each in range(1, some.dim())))
    return Input(
        tuple(x.shape), 1, float(x.abs().max()), dtype,
        _array(tails.double() / some.shape[axis]), _array(_constant(some, axis).double() / some.shape[axis]),
        _moments(some, torch.ones_like(some)), _moments(some, mask.double().expand_as(some)),
        tuple(_between(some, each) for each in range(some.dim())),
    )  # fmt: skip


def _constant(x: Tensor, axis: int) -> Tensor:
    """For each sample, at how many places of an axis, from its beginning, all channels repeat the first value."""
    lines = x.movedim(axis, -1).reshape(len(x), -1, x.shape[axis])
    same: Tensor = (lines == lines[..., :1]).all(1).long().cumprod(-1).sum(-1)
    return torch.where(same > 1, same, 0)


def _moments(x: Tensor, mask: Tensor) -> Moments:
    others = [axis for axis in range(x.dim()) if axis != 1]
    count = mask.sum(others)
    mean = (x * mask).sum(others) / count.clamp(min=1)
    apart = (x - mean.reshape(1, -1, *(1,) * (x.dim() - 2))) * mask
    var = apart.square().sum(others) / count.clamp(min=1)
    return Moments(_array(mean), _array(var), _array(count))


def _between(x: Tensor, axis: int) -> float:
    total = _spread(x)
    means = x.movedim(axis, 0).reshape(x.shape[axis], -1).mean(1)
    return _spread(means) / total if total > 0 else 0.0


def _spread(values: Tensor) -> float:
    return float((values - values.mean()).square().mean())


def _array(tensor: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.double().cpu().numpy()
    return found
