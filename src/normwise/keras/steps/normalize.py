"""The normalize and the activate step on ``keras.ops``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from normwise.keras.steps.kernels import tensorflow_sums


class Normalized(NamedTuple):
    """The output, in the layout of the input, and the moments behind it, shape (C,); the variance is biased."""

    y: Any
    mean: Any
    var: Any


def along(per_channel: Any, inputs: Any, axis: int) -> Any:
    """A tensor of shape (C,) with the axes of the input."""
    shape = [1] * len(inputs.shape)
    shape[axis] = -1
    return ops.reshape(per_channel, shape)


def normalize(batch: Any, scale: Any, shift: Any, epsilon: float, axis: int) -> Any:
    r"""Normalize a batch by its moments, :math:`\gamma (x - \mu) / \sqrt{v + \epsilon} + \beta`.

    Args:
        batch: the moments that are to be taken, and the input about them.
        scale: :math:`\gamma`, shape (C,), or None for 1.
        shift: :math:`\beta`, shape (C,), or None for 0.
        epsilon: added to the variance.
        axis: of the channels.
    """
    factor = ops.rsqrt(batch.var + epsilon)
    if scale is not None:
        factor = factor * along(scale, batch.centred, axis)
    # In this order a gradient needs the sums of g and of g x, and no third one.
    total = -batch.offset * factor
    if shift is not None:
        total = total + along(shift, batch.centred, axis)
    sums = tensorflow_sums()
    return batch.centred * factor + total if sums is None else sums.scaled(batch.centred, factor, total)


def normalize_by_fixed(inputs: Any, mean: Any, var: Any, scale: Any, shift: Any, epsilon: float, axis: int) -> Any:
    """Normalize by running statistics of shape (C,)."""
    factor = ops.rsqrt(var + epsilon)
    if scale is not None:
        factor = factor * scale
    y = (inputs - along(mean, inputs, axis)) * along(factor, inputs, axis)
    return y if shift is None else y + along(shift, inputs, axis)


def activate(y: Any, activation: Callable[[Any], Any] | None, residual: Any) -> Any:
    """``activation(y + residual)`` in the dtype of y."""
    if residual is not None:
        y = y + ops.cast(residual, y.dtype)
    return y if activation is None else activation(y)
