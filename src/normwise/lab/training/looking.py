"""Values that were seen at looks, over time: each look stands for the steps that it is nearest to.

Looks are close to each other early in training and far apart late; a plain mean over them would be one over the
beginning, and would change with how many looks there are there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normwise.lab.intervals import Numbers


def shares(at: Sequence[int]) -> Numbers:
    """The share of the time that each look stands for.

    Args:
        at: after which steps the looks are.

    Returns:
        Shape (looks,); the sum is 1.

    Example:
        >>> shares((1, 2, 11)).round(2).tolist()
        [0.05, 0.5, 0.45]
    """
    steps = np.asarray(at, dtype=np.float64)
    if steps[0] == steps[-1]:
        return np.full(len(steps), 1 / len(steps))
    found = np.diff(np.concatenate(([steps[0]], (steps[1:] + steps[:-1]) / 2, [steps[-1]])))
    return np.asarray(found / found.sum())


def over_time(values: Numbers, at: Sequence[int], axis: int = -1) -> Numbers:
    """The mean over time.

    Args:
        values: at the looks.
        at: after which steps the looks are.
        axis: of the looks.

    Example:
        >>> float(over_time(np.array([0.0, 0.0, 1.0]), (1, 2, 11)).round(2))
        0.45
    """
    return np.asarray(np.moveaxis(values, axis, -1) @ shares(at))


def spread_over_time(values: Numbers, at: Sequence[int], axis: int = -1) -> Numbers:
    """The standard deviation over time; arguments as for ``over_time``."""
    values = np.moveaxis(values, axis, -1)
    away = values - over_time(values, at)[..., None]
    return np.asarray(np.sqrt(over_time(away**2, at)))


def median_over_time(values: Numbers, at: Sequence[int]) -> Numbers:
    """The median over time, of values whose single looks can be as large as can be: shape (..., looks) to (...).

    Example:
        >>> float(median_over_time(np.array([1.0, 2.0, 9.0]), (1, 2, 3)))
        2.0
    """
    order = np.argsort(values, axis=-1)
    behind = np.cumsum(shares(at)[order], axis=-1)
    place = np.argmax(behind >= 0.5 - 1e-12, axis=-1)[..., None]
    return np.asarray(np.take_along_axis(values, np.take_along_axis(order, place, axis=-1), axis=-1)[..., 0])
