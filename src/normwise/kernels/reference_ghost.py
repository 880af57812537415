"""The formulas of batch normalization over virtual batches in NumPy float64: the law for ``GhostBatchNorm``.

Each virtual batch is a batch for itself, whose samples are named one by one; parameters are shared, so their gradients
add up. What enters the running statistics is the moments of all values, whatever the virtual batches.

References:
    Hoffer, Hubara and Soudry, Train longer, generalize better: closing the generalization gap in large batch training
    of neural networks, 2017, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from normwise.kernels import reference
from normwise.kernels.reference import F64, Gradients
from normwise.moments import Moments


def forward_batch(
    x: Any,
    virtual_batches: Sequence[Sequence[int]],
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    weights: Any = None,
) -> tuple[F64, Moments]:
    r"""Normalize each virtual batch by its own moments.

    .. math:: y_i = f\Big(\gamma \frac{x_i - \mu_{g(i)}}{\sqrt{v_{g(i)} + \epsilon}} + \beta + r_i\Big)

    Args:
        x: values, (N, C, *spatial).
        virtual_batches: the samples of each, by their place along the first axis; every sample in one of them.
        scale: :math:`\gamma`, shape (C,), or None for 1.
        shift: :math:`\beta`, shape (C,), or None for 0.
        eps: :math:`\epsilon`, in the unit of the variance.
        activation: :math:`f`, or None for the identity.
        residual: :math:`r`, the shape of ``x``, or None.
        weights: how much each value counts, with N samples along the first axis; 0 makes the output 0.

    Returns:
        y, and the moments of all values.

    Example:
        >>> y, batch = forward_batch([[1.0], [3.0], [10.0], [20.0]], [[0, 1], [2, 3]], None, None, eps=0.0)
        >>> y.ravel(), batch.mean
        (array([-1.,  1., -1.,  1.]), array([8.5]))
    """
    x = np.asarray(x, np.float64)
    y = np.full(x.shape, np.nan)
    for samples in virtual_batches:
        y[list(samples)], _ = reference.forward_batch(
            x[list(samples)],
            scale,
            shift,
            eps,
            activation=activation,
            residual=_of(residual, samples),
            weights=_of(weights, samples),
        )
    return y, reference.moments(x, weights=weights)


def backward_batch(
    dy: Any,
    x: Any,
    virtual_batches: Sequence[Sequence[int]],
    scale: Any,
    shift: Any,
    eps: float,
    *,
    activation: str | None = None,
    residual: Any = None,
    weights: Any = None,
) -> Gradients:
    r"""The gradients of ``forward_batch``: those of each virtual batch; of what they share, the sum.

    .. math:: d\gamma = \sum_g d\gamma_g, \quad d\beta = \sum_g d\beta_g

    Args:
        dy: the gradient of the loss for y.
        x: values, (N, C, *spatial).
        virtual_batches: the samples of each.
        scale: :math:`\gamma`, shape (C,), or None for 1.
        shift: :math:`\beta`, shape (C,), or None for 0.
        eps: added to the variance.
        activation: :math:`f`, or None.
        residual: :math:`r`, or None.
        weights: how much each value counts.

    Example:
        >>> backward_batch([[1.0], [2.0]], [[1.0], [3.0]], [[0, 1]], None, None, eps=0.0).shift
        array([3.])
    """
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    channels = x.shape[1]
    found = Gradients(
        np.full(x.shape, np.nan),
        np.zeros(channels),
        np.zeros(channels),
        None if residual is None else np.full(x.shape, np.nan),
    )
    for samples in virtual_batches:
        part = reference.backward_batch(
            dy[list(samples)],
            x[list(samples)],
            scale,
            shift,
            eps,
            activation=activation,
            residual=_of(residual, samples),
            weights=_of(weights, samples),
        )
        found.x[list(samples)] = part.x
        found.scale[:] += part.scale
        found.shift[:] += part.shift
        if found.residual is not None:
            found.residual[list(samples)] = part.residual
    return found


def _of(values: Any, samples: Sequence[int]) -> F64 | None:
    return None if values is None else np.asarray(values)[list(samples)]
