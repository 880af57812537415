"""The facts about a layer's input that its moments do not tell: constant ends, and how it varies along each axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from normwise.facts import Array, Input
from normwise.moments import Moments

LOOKED_AT = 32
"""Samples of a batch that are looked at value by value, at most."""


def input_of(some: NDArray[Any], shape: tuple[int, ...], axis: int, largest: float, dtype: str) -> Input:
    """The description of an input.

    Args:
        some: of the first samples, float, shape (n, ...), not empty.
        shape: of all of it.
        axis: of the channels, not negative.
        largest: the largest absolute value of all of it.
        dtype: of it.

    Example:
        >>> x = np.array([[[1.0, 2.0, 0.0, 0.0]]])
        >>> input_of(x, x.shape, 1, 2.0, "float32").tails
        array([0.5])
    """
    x = np.asarray(some, dtype=np.float64)
    places = [each for each in range(1, x.ndim) if each != axis]
    if not places:
        unknown = np.full(len(x), np.nan)
        return Input(shape, axis, largest, dtype, unknown, unknown)
    along = max(places, key=lambda each: x.shape[each])
    length = x.shape[along]
    tails = _constant(np.flip(x, along), along)
    inside = np.arange(length) < (length - tails)[:, None]
    mask = inside.reshape(len(x), *(length if each == along else 1 for each in range(1, x.ndim)))
    # Infinity makes NaN here, and examine says in a sentence of its own where infinite values came in.
    with np.errstate(invalid="ignore", over="ignore"):
        return Input(
            shape, axis, largest, dtype, tails / length, _constant(x, along) / length,
            _moments(x, np.ones_like(x), axis), _moments(x, np.broadcast_to(mask, x.shape) * 1.0, axis),
            tuple(_between(x, each) for each in range(x.ndim)),
        )  # fmt: skip


def _constant(x: Array, axis: int) -> Array:
    """The number of places of an axis, from its beginning, at which all channels of a sample repeat the first value."""
    lines = np.moveaxis(x, axis, -1).reshape(len(x), -1, x.shape[axis])
    same = np.cumprod((lines == lines[..., :1]).all(1), axis=-1).sum(-1)
    return np.where(same > 1, same, 0).astype(np.float64)


def _moments(x: Array, mask: Array, axis: int) -> Moments:
    others = tuple(each for each in range(x.ndim) if each != axis)
    count = mask.sum(others)
    some = np.maximum(count, 1)
    mean = (x * mask).sum(others) / some
    apart = (x - np.expand_dims(mean, others)) * mask
    return Moments(mean, np.square(apart).sum(others) / some, count)


def _between(x: Array, axis: int) -> float:
    total = float(x.var())
    means = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).mean(1)
    return float(means.var()) / total if total > 0 else 0.0
