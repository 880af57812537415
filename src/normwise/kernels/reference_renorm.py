"""The formulas of batch renormalization in NumPy float64: the law for ``normwise.torch.layers.batch_renorm``.

Written as the paper has them, step by step and not simplified, without weights and with one call per formula.

References:
    Ioffe, Batch renormalization: towards reducing minibatch dependence in batch-normalized models, 2017: algorithm 1,
    and the gradients in section 3; section 4.1 for the schedule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from normwise.kernels.reference import F64


class Statistics(NamedTuple):
    """The paper's moving averages: the mean, and the standard deviation with eps in it."""

    mean: F64
    sigma: F64


class Forward(NamedTuple):
    """y, and the corrections."""

    y: F64
    r: F64
    d: F64


class Gradients(NamedTuple):
    """The gradients of the loss; r and d are constants."""

    x: F64
    scale: F64
    shift: F64


def bounds(batches: float) -> tuple[float, float]:
    r"""The paper's schedule: r_max from 1 to 3 and d_max from 0 to 5, between 5000 batches and 40 000 or 25 000.

    Example:
        >>> bounds(5000), bounds(25000)[1], bounds(40000)
        ((1.0, 0.0), 5.0, (3.0, 5.0))
    """
    r_max = np.interp(batches, [5000, 40000], [1, 3])
    d_max = np.interp(batches, [5000, 25000], [0, 5])
    return float(r_max), float(d_max)


def forward(x: Any, scale: Any, shift: Any, running: Statistics, r_max: float, d_max: float, eps: float) -> Forward:
    r"""Algorithm 1, in training.

    .. math:: \sigma_B = \sqrt{\epsilon + \tfrac1m \sum_i (x_i - \mu_B)^2}, \quad
        r = [\sigma_B / \sigma]_{1/r_{max}}^{r_{max}}, \quad d = [(\mu_B - \mu) / \sigma]_{-d_{max}}^{d_{max}}, \quad
        \hat x_i = \frac{x_i - \mu_B}{\sigma_B} r + d, \quad y_i = \gamma \hat x_i + \beta

    Args:
        x: values, (N, C, *spatial).
        scale: :math:`\gamma`, shape (C,).
        shift: :math:`\beta`, shape (C,).
        running: the moving averages before this batch.
        r_max: bound of r.
        d_max: bound of d.
        eps: :math:`\epsilon`.

    Example:
        >>> one = Statistics(np.zeros(1), np.ones(1))
        >>> forward([[1.0], [3.0]], [1.0], [0.0], one, 3.0, 5.0, 0.0).y.ravel()
        array([1., 3.])
    """
    x = np.asarray(x, np.float64)
    mean, sigma = _batch(x, eps)
    r = np.clip(sigma / running.sigma, 1 / r_max, r_max)
    d = np.clip((mean - running.mean) / running.sigma, -d_max, d_max)
    normalized = (x - _along(mean, x)) / _along(sigma, x) * _along(r, x) + _along(d, x)
    return Forward(_along(scale, x) * normalized + _along(shift, x), r, d)


def backward(dy: Any, x: Any, scale: Any, running: Statistics, r_max: float, d_max: float, eps: float) -> Gradients:
    r"""The paper's gradients, through the batch's mean and deviation but not through r and d.

    .. math:: \frac{\partial l}{\partial \sigma_B} = \sum_i \frac{\partial l}{\partial \hat x_i}
        (x_i - \mu_B) \frac{-r}{\sigma_B^2}, \quad
        \frac{\partial l}{\partial \mu_B} = \sum_i \frac{\partial l}{\partial \hat x_i} \frac{-r}{\sigma_B}

    .. math:: \frac{\partial l}{\partial x_i} = \frac{\partial l}{\partial \hat x_i} \frac{r}{\sigma_B}
        + \frac{\partial l}{\partial \sigma_B} \frac{x_i - \mu_B}{m \sigma_B}
        + \frac{\partial l}{\partial \mu_B} \frac1m

    Args:
        dy: the gradient of the loss for y.
        x: values.
        scale: :math:`\gamma`.
        running: the moving averages before this batch.
        r_max: bound of r.
        d_max: bound of d.
        eps: :math:`\epsilon`.

    Example:
        >>> one = Statistics(np.zeros(1), np.ones(1))
        >>> backward([[1.0], [1.0]], [[1.0], [3.0]], [1.0], one, 3.0, 5.0, 0.0).shift
        array([2.])
    """
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    over = _over(x)
    m = x.size / x.shape[1]
    mean, sigma = _batch(x, eps)
    _, r, d = forward(x, scale, np.zeros_like(mean), running, r_max, d_max, eps)
    centred = x - _along(mean, x)
    normalized = centred / _along(sigma, x) * _along(r, x) + _along(d, x)
    dnormalized = dy * _along(scale, x)
    dsigma = (dnormalized * centred).sum(over) * -r / sigma**2
    dmean = dnormalized.sum(over) * -r / sigma
    dx = dnormalized * _along(r / sigma, x) + _along(dsigma / (m * sigma), x) * centred + _along(dmean / m, x)
    return Gradients(dx, (dy * normalized).sum(over), dy.sum(over))


def _batch(x: F64, eps: float) -> tuple[F64, F64]:
    return x.mean(_over(x)), np.sqrt(eps + x.var(_over(x)))


def _over(x: F64) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _along(per_channel: Any, x: F64) -> F64:
    return np.expand_dims(np.asarray(per_channel, np.float64), _over(x))
