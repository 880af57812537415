r"""The formulas of whitening in NumPy float64, by eigenvalues: the law for ``decorrelated`` and ``iterative_norm``.

Arrays are (N, C, *spatial). The channels are in groups of ``size``, each whitened by the covariance of its own:

.. math:: Y = \gamma \, W (X - \mu) + \beta, \quad \Sigma = \tfrac1n \sum_i (x_i - \mu)(x_i - \mu)^T, \quad
    W = f(\Sigma + \epsilon I)

A symmetric function of a symmetric matrix acts on its eigenvalues. For ZCA it is :math:`f(\lambda) = \lambda^{-1/2}`;
T Newton steps of IterNorm are a polynomial of the eigenvalue over the trace. So neither needs an iteration of matrices
here, and both have one backward: with :math:`\Sigma = Q \Lambda Q^T`,

.. math:: d\Sigma = Q \big(F \circ Q^T dW Q\big) Q^T, \quad
    F_{ij} = \frac{f(\lambda_i) - f(\lambda_j)}{\lambda_i - \lambda_j}, \quad F_{ii} = f'(\lambda_i)

References:
    Huang, Yang, Lang and Deng, Decorrelated batch normalization, 2018. Huang, Zhou, Zhu, Liu and Shao, Iterative
    normalization: beyond standardization towards efficient whitening, 2019: algorithm 1. Daleckii and Krein, 1965, for
    the derivative of a function of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from normwise.kernels.reference import F64

CLOSE = 1e-6  # eigenvalues whose relative difference is smaller are taken for one in F


class Root(NamedTuple):
    """A function of an eigenvalue and of the trace, with its derivatives for both."""

    value: F64
    slope: F64
    by_trace: F64


Function = Callable[[F64, F64], Root]


class Gradients(NamedTuple):
    """The gradients of the loss for each input of the forward."""

    x: F64
    scale: F64
    shift: F64


def zca(eigenvalue: F64, trace: F64) -> Root:
    r"""The inverse square root.

    .. math:: f(\lambda) = \lambda^{-1/2}

    Example:
        >>> zca(np.array([4.0]), np.array([4.0])).value
        array([0.5])
    """
    value = eigenvalue**-0.5
    return Root(value, -0.5 * value / eigenvalue, np.zeros_like(value + trace))


def newton(steps: int) -> Function:
    r"""The function of an eigenvalue that T Newton steps compute; it tends to ``zca`` as T grows.

    .. math:: p_0 = 1, \quad p_{k+1} = \tfrac12 \big(3 p_k - p_k^3 \tfrac{\lambda}{t}\big), \quad
        f(\lambda) = p_T / \sqrt{t}, \quad t = \operatorname{tr} \Sigma

    Args:
        steps: T.

    Example:
        >>> newton(30)(np.array([4.0]), np.array([8.0])).value.round(12)
        array([0.5])
    """

    def function(eigenvalue: F64, trace: F64) -> Root:
        share = eigenvalue / trace
        p, slope = np.ones_like(share), np.zeros_like(share)  # p and dp / dshare
        for _ in range(steps):
            p, slope = 0.5 * (3 * p - p**3 * share), 0.5 * (3 * slope - 3 * p**2 * slope * share - p**3)
        value = p / np.sqrt(trace)
        return Root(value, slope / trace**1.5, -slope * share / trace**1.5 - 0.5 * value / trace)

    return function


def grouped(x: Any, size: int) -> F64:
    """(N, C, *spatial) as (groups, size, values).

    Example:
        >>> grouped(np.zeros((3, 4, 5)), 2).shape
        (2, 2, 15)
    """
    x = np.asarray(x, np.float64)
    flat: F64 = np.moveaxis(x, 1, 0).reshape(x.shape[1] // size, size, -1)
    return flat


def ungrouped(rows: F64, shape: tuple[int, ...]) -> F64:
    """Back from ``grouped``.

    Example:
        >>> ungrouped(grouped([[1.0, 2.0], [3.0, 4.0]], 2), (2, 2))
        array([[1., 2.],
               [3., 4.]])
    """
    return np.moveaxis(rows.reshape(shape[1], shape[0], *shape[2:]), 0, 1)


def moments(x: Any, size: int, weights: Any = None) -> tuple[F64, F64, float]:
    """Mean (groups, size), biased covariance (groups, size, size), and the sum of the weights.

    Args:
        x: values.
        size: of a group.
        weights: (N, 1, *spatial), how much each position counts; None for 1.

    Example:
        >>> moments([[1.0, 0.0], [3.0, 4.0]], 2)[1]
        array([[[1., 2.],
                [2., 4.]]])
    """
    rows = grouped(x, size)
    w = _weights(x, weights)
    number = float(w.sum())
    mean = (np.where(w > 0, rows, 0) * w).sum(-1) / number
    centred = np.where(w > 0, rows - mean[..., None], 0)
    return mean, (w * centred) @ centred.transpose(0, 2, 1) / number, number


def whitening(covariance: F64, eps: float, function: Function) -> F64:
    """The matrix of each group, (groups, size, size).

    Example:
        >>> whitening(np.diag([4.0, 16.0])[None], 0.0, zca)
        array([[[0.5 , 0.  ],
                [0.  , 0.25]]])
    """
    values, vectors = np.linalg.eigh(covariance + eps * np.eye(covariance.shape[-1]))
    root = function(values, values.sum(-1, keepdims=True)).value
    found: F64 = (vectors * root[:, None, :]) @ vectors.transpose(0, 2, 1)
    return found


def forward(x: Any, scale: Any, shift: Any, size: int, eps: float, function: Function, *, weights: Any = None) -> F64:
    """Whiten by the batch itself (training).

    Args:
        x: values.
        scale: shape (C,).
        shift: shape (C,).
        size: of a group.
        eps: added to the diagonal of the covariance.
        function: ``zca``, or ``newton(steps)``.
        weights: (N, 1, *spatial), how much each position counts; where it is 0 the output is 0.

    Example:
        >>> forward([[-1.0], [1.0]], [2.0], [1.0], 1, 0.0, zca).ravel()
        array([-1.,  3.])
    """
    mean, covariance, _ = moments(x, size, weights)
    return forward_fixed(x, mean, covariance, scale, shift, size, eps, function, weights=weights)


def forward_fixed(
    x: Any,
    mean: Any,
    covariance: Any,
    scale: Any,
    shift: Any,
    size: int,
    eps: float,
    function: Function,
    *,
    weights: Any = None,
) -> F64:
    """Whiten by running statistics (inference); ``mean`` of C values, ``covariance`` (groups, size, size).

    Example:
        >>> forward_fixed([[3.0]], [1.0], [[[4.0]]], [1.0], [0.0], 1, 0.0, zca)
        array([[1.]])
    """
    rows, w = grouped(x, size), _weights(x, weights)
    centred = np.where(w > 0, rows - np.asarray(mean, np.float64).reshape(len(rows), size, 1), 0)
    white = whitening(np.asarray(covariance, np.float64), eps, function) @ centred
    scale, shift = (np.asarray(parameter, np.float64).reshape(len(rows), size, 1) for parameter in (scale, shift))
    return ungrouped(np.where(w > 0, white * scale + shift, 0), np.shape(x))


def backward(
    dy: Any, x: Any, scale: Any, size: int, eps: float, function: Function, *, weights: Any = None
) -> Gradients:
    r"""The gradients of ``forward``.

    With :math:`g = \gamma \, dy`, :math:`dW = \sum_i g_i (x_i - \mu)^T` and :math:`d\Sigma` as above, made symmetric:

    .. math:: dx_i = W g_i - \frac{w_i}{n} \sum_j W g_j + \frac{2 w_i}{n} d\Sigma \, (x_i - \mu)

    Args:
        dy: the gradient of the loss for y.
        x: values.
        scale: shape (C,).
        size: of a group.
        eps: added to the diagonal of the covariance.
        function: ``zca``, or ``newton(steps)``.
        weights: (N, 1, *spatial), how much each position counts.

    Example:
        >>> backward([[1.0], [1.0]], [[-1.0], [1.0]], [2.0], 1, 0.0, zca).x.ravel()
        array([0., 0.])
    """
    mean, covariance, number = moments(x, size, weights)
    rows, w = grouped(x, size), _weights(x, weights)
    centred = np.where(w > 0, rows - mean[..., None], 0)
    given = np.where(w > 0, grouped(dy, size), 0)
    values, vectors = np.linalg.eigh(covariance + eps * np.eye(size))
    trace = values.sum(-1, keepdims=True)
    root = function(values, trace)
    matrix = (vectors * root.value[:, None, :]) @ vectors.transpose(0, 2, 1)
    g = given * np.asarray(scale, np.float64).reshape(len(rows), size, 1)
    dw = vectors.transpose(0, 2, 1) @ (g @ centred.transpose(0, 2, 1)) @ vectors
    dw = 0.5 * (dw + dw.transpose(0, 2, 1))
    dcov = vectors @ (_divided(values, trace, root, function) * dw) @ vectors.transpose(0, 2, 1)
    through_trace = (np.einsum("gii->gi", dw) * root.by_trace).sum(-1)
    dcov = dcov + through_trace[:, None, None] * np.eye(size)
    white_g = matrix @ g
    dx = white_g - w * white_g.sum(-1, keepdims=True) / number + 2 * w * (dcov @ centred) / number
    shape = np.shape(x)
    return Gradients(
        x=ungrouped(np.where(w > 0, dx, 0), shape),
        scale=(given * (matrix @ centred)).sum(-1).ravel(),
        shift=given.sum(-1).ravel(),
    )


def _divided(values: F64, trace: F64, root: Root, function: Function) -> F64:
    """F, by the derivative half way where two eigenvalues are one."""
    one, other = values[:, :, None], values[:, None, :]
    apart = one - other
    close = np.abs(apart) <= CLOSE * np.maximum(one, other)
    quotient = (root.value[:, :, None] - root.value[:, None, :]) / np.where(close, 1.0, apart)
    return np.where(close, function(0.5 * (one + other), trace[..., None]).slope, quotient)


def _weights(x: Any, weights: Any) -> F64:
    """One per value of a row of ``grouped``."""
    shape = np.shape(x)
    w = np.ones((1,) * len(shape)) if weights is None else np.asarray(weights, np.float64)
    return np.broadcast_to(w, (shape[0], 1, *shape[2:])).reshape(-1)
