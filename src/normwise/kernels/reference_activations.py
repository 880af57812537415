"""The activations that every layer offers, with their slopes, in NumPy float64: part of the law."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Activation(NamedTuple):
    """A function of one variable and its derivative; at a kink the derivative is the one that PyTorch takes."""

    value: Callable[[F64], F64]
    slope: Callable[[F64], F64]


def _erf(z: F64) -> F64:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(z))


def _sigmoid(z: F64) -> F64:
    e = np.exp(-np.abs(z))  # never overflows
    return np.where(z >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


def _softplus(z: F64) -> F64:
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def _normal_density(z: F64) -> F64:
    return np.exp(-0.5 * np.clip(z, -40.0, 40.0) ** 2) / math.sqrt(2.0 * math.pi)  # 0 from 39 on, without overflow


def _normal_share(z: F64) -> F64:
    return 0.5 * (1.0 + _erf(z / math.sqrt(2.0)))


ACTIVATIONS: dict[str, Activation] = {
    "elu": Activation(
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0.0))),
        lambda z: np.exp(np.minimum(z, 0.0)),
    ),
    "gelu": Activation(
        lambda z: z * _normal_share(z),
        lambda z: _normal_share(z) + z * _normal_density(z),
    ),
    "hardswish": Activation(
        lambda z: z * np.clip(z + 3.0, 0.0, 6.0) / 6.0,
        lambda z: np.where(z < -3.0, 0.0, np.where(z <= 3.0, z / 3.0 + 0.5, 1.0)),
    ),
    "leaky_relu": Activation(
        lambda z: np.where(z > 0, z, 0.01 * z),
        lambda z: np.where(z > 0, 1.0, 0.01),
    ),
    "mish": Activation(
        lambda z: z * np.tanh(_softplus(z)),
        lambda z: np.tanh(_softplus(z)) + z * _sigmoid(z) * (1.0 - np.tanh(_softplus(z)) ** 2),
    ),
    "relu": Activation(
        lambda z: np.maximum(z, 0.0),
        lambda z: (z > 0).astype(np.float64),
    ),
    "relu6": Activation(
        lambda z: np.clip(z, 0.0, 6.0),
        lambda z: ((z > 0) & (z < 6.0)).astype(np.float64),
    ),
    "sigmoid": Activation(_sigmoid, lambda z: _sigmoid(z) * (1.0 - _sigmoid(z))),
    "silu": Activation(
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) * (1.0 + z * (1.0 - _sigmoid(z))),
    ),
    "tanh": Activation(np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
}
