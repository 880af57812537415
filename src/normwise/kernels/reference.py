"""The formulas of batch normalization in NumPy float64: the law that every other implementation is held to.

Written for reading, not for speed. Arrays have any layout (N, C, *spatial) or channels last; ``axis`` is the axis of
the channels. Weights have the shape of ``x``, with 1 in place of any axis along which they do not differ, the channel
axis among them; a boolean mask is the special case of weights 0 and 1. Where the weight is 0 the value of ``x`` does
not matter (it may be NaN), the output is 0, and no gradient flows.

References:
    Ioffe and Szegedy, Batch normalization: accelerating deep network training by reducing internal covariate shift,
    2015: algorithm 1 (forward), section 3 (the gradients), algorithm 2 (fixed statistics).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normwise.kernels.reference_activations import activation_named
from normwise.moments import Moments

F64 = NDArray[np.float64]


class Gradients(NamedTuple):
    """The gradients of the loss for each input of the forward; ``residual`` is None where there was none."""

    x: F64
    scale: F64
    shift: F64
    residual: F64 | None


def moments(x: Any, *, weights: Any = None, axis: int = 1) -> Moments:
    r"""The weighted mean and biased variance of each channel.

    .. math:: n = \sum_i w_i, \quad \mu = \frac1n \sum_i w_i x_i, \quad v = \frac1n \sum_i w_i (x_i - \mu)^2

    Args:
        x: values, any shape.
        weights: how much each value counts, 0 or more; None for 1 everywhere.
        axis: the axis of the channels.

    Returns:
        mean and var of shape (C,), count a number, or of shape (C,) where the weights differ along the channels;
        mean 0 and var 0 where the count is 0.

    Example:
        >>> moments([[1.0, 4.0], [3.0, 4.0]])
        Moments(mean=array([2., 4.]), var=array([1., 0.]), count=2.0)
    """
    x, w = _prepare(x, weights)
    over = _others(x, axis)
    count = _count(x, w, axis)
    safe = np.where(count == 0, 1.0, count)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite inputs give NaN moments, silently, as everywhere
        mean = (w * x).sum(over) / safe
        centred = np.where(w > 0, x - _along(mean, x, axis), 0.0)
        var = (w * centred**2).sum(over) / safe
    return Moments(mean, var, count)


def forward_batch(
    x: Any,
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    weights: Any = None,
    axis: int = 1,
) -> tuple[F64, Moments]:
    r"""Normalize by the moments of the batch itself (training).

    .. math:: y = f\Big(\gamma \frac{x - \mu_B}{\sqrt{v_B + \epsilon}} + \beta + r\Big)

    Args:
        x: values.
        scale: :math:`\gamma`, shape (C,), or None for 1.
        shift: :math:`\beta`, shape (C,), or None for 0.
        eps: :math:`\epsilon`, in the unit of the variance.
        activation: :math:`f`, a name that ``activation_named`` takes, or None for the identity.
        residual: :math:`r`, the shape of ``x``, or None.
        weights: how much each value counts for the moments; 0 makes the output 0.
        axis: the axis of the channels.

    Returns:
        y and the batch's moments.

    Example:
        >>> y, batch = forward_batch([[1.0], [3.0]], [2.0], [5.0], eps=0.0)
        >>> y.ravel(), batch.mean
        (array([3., 7.]), array([2.]))
    """
    batch = moments(x, weights=weights, axis=axis)
    y = forward_fixed(
        x,
        batch.mean,
        batch.var,
        scale,
        shift,
        eps,
        activation=activation,
        residual=residual,
        weights=weights,
        axis=axis,
    )
    return y, batch


def forward_fixed(
    x: Any,
    mean: Any,
    var: Any,
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    weights: Any = None,
    axis: int = 1,
) -> F64:
    r"""Normalize by running statistics (inference).

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    Args:
        x: values.
        mean: :math:`\mu`, shape (C,).
        var: :math:`v`, shape (C,).
        scale: :math:`\gamma`, shape (C,), or None for 1.
        shift: :math:`\beta`, shape (C,), or None for 0.
        eps: added to the variance.
        activation: a name that ``activation_named`` takes, or None.
        residual: added before the activation, or None.
        weights: how much each value counts; 0 makes the output 0.
        axis: the axis of the channels.

    Example:
        >>> forward_fixed([[-1.0], [5.0]], [1.0], [4.0], None, None, eps=0.0, activation="relu").ravel()
        array([0., 2.])
    """
    x, w = _prepare(x, weights)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        z = _pre_activation(x, mean, var, scale, shift, eps, residual, axis)
        y = z if activation is None else activation_named(activation).value(z)
    return np.where(w > 0, y, 0.0)


def backward_batch(
    dy: Any,
    x: Any,
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    weights: Any = None,
    axis: int = 1,
) -> Gradients:
    r"""The gradients of ``forward_batch``: the moments of the batch depend on x too.

    With :math:`\hat x = (x - \mu_B) / s`, :math:`s = \sqrt{v_B + \epsilon}`, :math:`g = dy \cdot f'(z)`:

    .. math:: d\beta = \sum_i g_i, \quad d\gamma = \sum_i g_i \hat x_i, \quad dr = g, \quad
        dx_i = \frac{\gamma}{s} \Big(g_i - \frac{w_i}{n} d\beta - \frac{w_i \hat x_i}{n} d\gamma\Big)

    Args:
        dy: the gradient of the loss for y.
        x: values.
        scale: :math:`\gamma`, shape (C,), or None for 1.
        shift: :math:`\beta`, shape (C,), or None for 0.
        eps: added to the variance.
        activation: a name that ``activation_named`` takes, or None.
        residual: added before the activation, or None.
        weights: how much each value counts; 0 makes the output 0.
        axis: the axis of the channels.

    Example:
        >>> backward_batch([[1.0], [1.0]], [[1.0], [3.0]], [2.0], [0.0], eps=0.0).x.ravel()
        array([0., 0.])
    """
    batch = moments(x, weights=weights, axis=axis)
    fixed = backward_fixed(
        dy,
        x,
        batch.mean,
        batch.var,
        scale,
        shift,
        eps,
        activation=activation,
        residual=residual,
        weights=weights,
        axis=axis,
    )
    x, w = _prepare(x, weights)
    inv = _along(1.0 / np.sqrt(batch.var + eps), x, axis)
    normalized = np.where(w > 0, (x - _along(batch.mean, x, axis)) * inv, 0.0)
    count = np.asarray(np.where(batch.count == 0, 1.0, batch.count))
    share = w / (_along(count, x, axis) if count.ndim else count)
    through_moments = share * (_along(fixed.shift, x, axis) + normalized * _along(fixed.scale, x, axis))
    return fixed._replace(x=fixed.x - _channels(scale, 1.0, x, axis) * inv * through_moments)


def backward_fixed(
    dy: Any,
    x: Any,
    mean: Any,
    var: Any,
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    weights: Any = None,
    axis: int = 1,
) -> Gradients:
    r"""The gradients of ``forward_fixed``: the statistics are constants.

    .. math:: d\beta = \sum_i g_i, \quad d\gamma = \sum_i g_i \hat x_i, \quad dr = g, \quad dx_i = \frac{\gamma}{s} g_i

    Args:
        dy: the gradient of the loss for y.
        x: values.
        mean: :math:`\mu`, shape (C,).
        var: :math:`v`, shape (C,).
        scale: :math:`\gamma`, shape (C,), or None for 1.
        shift: :math:`\beta`, shape (C,), or None for 0.
        eps: added to the variance.
        activation: a name that ``activation_named`` takes, or None.
        residual: added before the activation, or None.
        weights: how much each value counts; 0 makes the output 0.
        axis: the axis of the channels.

    Example:
        >>> backward_fixed([[1.0]], [[3.0]], [1.0], [4.0], [6.0], [0.0], eps=0.0)
        Gradients(x=array([[3.]]), scale=array([1.]), shift=array([1.]), residual=None)
    """
    x, w = _prepare(x, weights)
    over = _others(x, axis)
    z = _pre_activation(x, mean, var, scale, shift, eps, residual, axis)
    slope = 1.0 if activation is None else activation_named(activation).slope(z)
    g = np.where(w > 0, np.asarray(dy, np.float64) * slope, 0.0)
    inv = _along(1.0 / np.sqrt(np.asarray(var, np.float64) + eps), x, axis)
    normalized = np.where(w > 0, (x - _along(mean, x, axis)) * inv, 0.0)
    return Gradients(
        x=_channels(scale, 1.0, x, axis) * inv * g,
        scale=(g * normalized).sum(over),
        shift=g.sum(over),
        residual=None if residual is None else g,
    )


def _pre_activation(x: F64, mean: Any, var: Any, scale: Any, shift: Any, eps: float, residual: Any, axis: int) -> F64:
    inv = _along(1.0 / np.sqrt(np.asarray(var, np.float64) + eps), x, axis)
    normalized = (x - _along(mean, x, axis)) * inv
    z = normalized * _channels(scale, 1.0, x, axis) + _channels(shift, 0.0, x, axis)
    return z if residual is None else z + np.asarray(residual, np.float64)


def _prepare(x: Any, weights: Any) -> tuple[F64, F64]:
    """X and its weights in float64, x made 0 where it does not count, so that a NaN there cannot spread."""
    x = np.asarray(x, np.float64)
    if weights is None:
        return x, np.ones((1,) * x.ndim)
    w = np.asarray(weights, np.float64)
    if w.ndim != x.ndim or any(mine not in (1, theirs) for mine, theirs in zip(w.shape, x.shape, strict=True)):
        raise ValueError(f"weights need the axes of {x.shape} or 1 for any of them, received the shape {w.shape}")
    return np.where(w > 0, x, 0.0), w


def _count(x: F64, w: F64, axis: int) -> Any:
    """The sum of the weights behind each channel: one number where all channels share it."""
    repeats = (x.size // x.shape[axis]) / (w.size // w.shape[axis]) if w.size and x.size else 0.0
    count = w.sum(_others(x, axis)) * repeats
    return float(count[0]) if w.shape[axis] == 1 else count


def _others(x: F64, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis % x.ndim)


def _along(per_channel: Any, x: F64, axis: int) -> F64:
    return np.expand_dims(np.asarray(per_channel, np.float64), _others(x, axis))


def _channels(per_channel: Any, default: float, x: F64, axis: int) -> F64 | float:
    return default if per_channel is None else _along(per_channel, x, axis)
