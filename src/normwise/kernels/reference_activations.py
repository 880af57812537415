"""The activations that every layer offers, with their slopes, in NumPy float64: part of the law."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normwise.kernels.activation_numbers import parted

F64 = NDArray[np.float64]
_CUBIC = math.sqrt(2.0 / math.pi)


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


def _tanh_share(z: F64) -> F64:
    """The share of a normal distribution below z, as ``approximate="tanh"`` takes it: (1 + tanh(u)) / 2."""
    near = np.clip(z, -40.0, 40.0)  # beyond it, the share is 0 or 1, without overflow
    return _sigmoid(2.0 * _CUBIC * (near + 0.044715 * near**3))


def _tanh_slope(z: F64) -> F64:
    near = np.clip(z, -40.0, 40.0)  # as above
    share = _tanh_share(near)
    return share + near * share * (1.0 - share) * 2.0 * _CUBIC * (1.0 + 3.0 * 0.044715 * near**2)


def _normal_share(z: F64) -> F64:
    return 0.5 * (1.0 + _erf(z / math.sqrt(2.0)))


def _elu(alpha: float) -> Activation:
    return Activation(
        lambda z: np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0))),
        lambda z: np.where(z > 0, 1.0, alpha * np.exp(np.minimum(z, 0.0))),
    )


def _leaky_relu(slope: float) -> Activation:
    return Activation(lambda z: np.where(z > 0, z, slope * z), lambda z: np.where(z > 0, 1.0, slope))


ACTIVATIONS: dict[str, Activation] = {
    "elu": _elu(1.0),
    "gelu": Activation(
        lambda z: z * _normal_share(z),
        lambda z: _normal_share(z) + z * _normal_density(z),
    ),
    "gelu_tanh": Activation(lambda z: z * _tanh_share(z), _tanh_slope),
    "hardsigmoid": Activation(
        lambda z: np.clip(z + 3.0, 0.0, 6.0) / 6.0,
        lambda z: ((z > -3.0) & (z < 3.0)) / 6.0,
    ),
    "hardswish": Activation(
        lambda z: z * np.clip(z + 3.0, 0.0, 6.0) / 6.0,
        lambda z: np.where(z < -3.0, 0.0, np.where(z <= 3.0, z / 3.0 + 0.5, 1.0)),
    ),
    "leaky_relu": _leaky_relu(0.01),
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

# Those that have a setting: the slope below 0, and alpha.
WITH_SETTING: dict[str, Callable[[float], Activation]] = {"elu": _elu, "leaky_relu": _leaky_relu}


def activation_named(name: str) -> Activation:
    """The activation of this name, which may have its setting behind a colon.

    Example:
        >>> activation_named("leaky_relu:0.5").value(np.array([-2.0, 2.0]))
        array([-1.,  2.])
    """
    kind, setting = parted(name)
    return ACTIVATIONS[kind] if setting is None else WITH_SETTING[kind](setting)
