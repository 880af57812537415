"""The formulas of group, layer and instance norm in NumPy float64: the law for their implementations.

All three are one formula over other axes. Moments are taken over the axes ``over`` of an array; scale and shift have as
many axes as it, with 1 where they do not differ. ``grouped`` gives an array the axes that group norm needs:

* instance norm of (N, C, *spatial): over the spatial axes;
* group norm: over the spatial axes and the channels of a group;
* layer norm of (..., *normalized): over the last axes, with a scale and a shift for each element.

References:
    Ba, Kiros and Hinton, Layer normalization, 2016. Ulyanov, Vedaldi and Lempitsky, Instance normalization: the missing
    ingredient for fast stylization, 2016. Wu and He, Group normalization, 2018: section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from normwise.kernels.reference import F64
from normwise.kernels.reference_activations import activation_named

Axes = tuple[int, ...]


class Moments(NamedTuple):
    """Mean, biased variance and number of the values of each set, with 1 in place of the axes that they go over."""

    mean: F64
    var: F64
    number: F64


class Gradients(NamedTuple):
    """The gradients of the loss, in the shapes of what they belong to; ``residual`` is None where there was none."""

    x: F64
    scale: F64
    shift: F64
    residual: F64 | None


def grouped(x: Any, groups: int) -> F64:
    """(N, C, *spatial) as (N, groups, C / groups, *spatial); for group norm, ``over`` is all axes from the third on.

    Example:
        >>> grouped(np.zeros((2, 6, 5)), 3).shape
        (2, 3, 2, 5)
    """
    x = np.asarray(x, np.float64)
    found: F64 = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return found


def moments(x: Any, over: Axes, mask: Any = None) -> Moments:
    r"""The moments of each set of values.

    .. math:: n = \sum_i m_i, \quad \mu = \frac1n \sum_i m_i x_i, \quad v = \frac1n \sum_i m_i (x_i - \mu)^2

    Args:
        x: values.
        over: the axes of a set.
        mask: True where a value counts; broadcasts to x.

    Example:
        >>> found = moments([[1.0, 3.0, 100.0]], (1,), [[True, True, False]])
        >>> found.mean.item(), found.var.item(), found.number.item()
        (2.0, 1.0, 2.0)
    """
    x, m = _prepare(x, mask)
    count = m.sum(over, keepdims=True)
    safe = np.maximum(count, 1.0)
    mean = (x * m).sum(over, keepdims=True) / safe
    var = (m * (x - mean) ** 2).sum(over, keepdims=True) / safe
    return Moments(mean, var, count)


def forward(
    x: Any,
    over: Axes,
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    mask: Any = None,
) -> F64:
    r"""Normalize each set by its own moments.

    .. math:: y = f\Big(\gamma \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta + r\Big)

    Args:
        x: values.
        over: the axes of a set.
        scale: :math:`\gamma`, broadcasts to x.
        shift: :math:`\beta`, broadcasts to x.
        eps: added to the variance.
        activation: :math:`f`, a name that ``activation_named`` takes, or None.
        residual: :math:`r`, the shape of x, or None.
        mask: True where a value counts; the output is 0 elsewhere.

    Example:
        >>> forward([[1.0, 3.0], [5.0, 5.0]], (1,), 2.0, 1.0, eps=1e-300)
        array([[-1.,  3.], [ 1.,  1.]])
    """
    x, m = _prepare(x, mask)
    z = _normalized(x, over, eps, m) * scale + shift
    if residual is not None:
        z = z + np.asarray(residual, np.float64)
    y = z if activation is None else activation_named(activation).value(z)
    return np.where(m > 0, y, 0.0)


def backward(
    dy: Any,
    x: Any,
    over: Axes,
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    mask: Any = None,
) -> Gradients:
    r"""The gradients of ``forward``.

    With :math:`\hat x = (x - \mu) / s`, :math:`s = \sqrt{v + \epsilon}`, :math:`g = dy \cdot f'(z)` and
    :math:`h = \gamma g`, and sums over each set:

    .. math:: dx_i = \frac{1}{s} \Big(h_i - \frac1n \sum_j h_j - \frac{\hat x_i}{n} \sum_j h_j \hat x_j\Big)

    while :math:`d\beta` and :math:`d\gamma` are the sums of :math:`g` and :math:`g \hat x` over all values that share
    a :math:`\beta` and a :math:`\gamma`, whatever their sets.

    Args:
        dy: the gradient of the loss for y.
        x: values.
        over: the axes of a set.
        scale: :math:`\gamma`, broadcasts to x.
        shift: :math:`\beta`, broadcasts to x.
        eps: added to the variance.
        activation: a name that ``activation_named`` takes, or None.
        residual: added before the activation, or None.
        mask: True where a value counts.

    Example:
        >>> backward([[1.0, 1.0]], [[1.0, 3.0]], (1,), 1.0, 0.0, eps=1e-300).x
        array([[0., 0.]])
    """
    x, m = _prepare(x, mask)
    batch = moments(x, over, m)
    normalized = _normalized(x, over, eps, m)
    z = normalized * scale + shift
    if residual is not None:
        z = z + np.asarray(residual, np.float64)
    slope = 1.0 if activation is None else activation_named(activation).slope(z)
    g = np.where(m > 0, np.asarray(dy, np.float64) * slope, 0.0)
    h = g * scale
    safe = np.maximum(batch.number, 1.0)
    about = h - m * (h.sum(over, keepdims=True) + normalized * (h * normalized).sum(over, keepdims=True)) / safe
    return Gradients(
        x=about / np.sqrt(batch.var + eps),
        scale=_summed(g * normalized, np.shape(scale)),
        shift=_summed(g, np.shape(shift)),
        residual=None if residual is None else g,
    )


def _normalized(x: F64, over: Axes, eps: float, mask: F64) -> F64:
    batch = moments(x, over, mask)
    return mask * (x - batch.mean) / np.sqrt(batch.var + eps)


def _prepare(x: Any, mask: Any) -> tuple[F64, F64]:
    """X in float64, 0 where it does not count, and the mask in numbers and in the shape of x."""
    x = np.asarray(x, np.float64)
    m = np.ones_like(x) if mask is None else np.broadcast_to(np.asarray(mask, np.float64), x.shape)
    return np.where(m > 0, x, 0.0), m


def _summed(values: F64, shape: tuple[int, ...]) -> F64:
    """The sums over the axes along which ``shape`` has 1, or is not there."""
    missing = values.ndim - len(shape)
    ones = tuple(missing + axis for axis, size in enumerate(shape) if size == 1)
    return np.asarray(values.sum((*range(missing), *ones), keepdims=True)).reshape(shape)


def number_of_groups(channels: int, asked: int | None) -> int:
    """The largest number of groups that divides the channels and is not above what is asked for.

    Args:
        channels: how many there are.
        asked: how many groups at most; None for 32, as the paper has it, or fewer where a group would be one channel,
            which would be an instance norm.

    References:
        Wu and He, Group normalization, 2018, table 3.

    Example:
        >>> number_of_groups(64, None), number_of_groups(24, None), number_of_groups(10, 4)
        (32, 12, 2)
    """
    most = min(32, max(channels // 2, 1)) if asked is None else min(asked, channels)
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)
