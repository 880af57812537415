"""The affine map that a Keras batch norm is in inference, and how a layer beside it takes it over, in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

F64 = NDArray[np.float64]
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
LINEAR = (*CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE, keras.layers.Dense)


class Affine(NamedTuple):
    """``scale * x + shift`` for each channel."""

    scale: F64
    shift: F64


Weights = dict[str, F64]
"""A layer's weights by the names of its attributes."""


def wide(variable: Any) -> F64:
    """A variable in float64."""
    found: F64 = np.asarray(ops.convert_to_numpy(ops.cast(variable.value, "float32")), np.float64)
    if str(variable.dtype) == "float64":
        found = np.asarray(ops.convert_to_numpy(variable.value), np.float64)
    return found


def weights_of(layer: Any) -> Weights:
    """The layer's own weights, and for one that it does not have, values that change nothing."""
    if isinstance(layer, keras.layers.BatchNormalization):
        mean = wide(layer.moving_mean)
        gamma = wide(layer.gamma) if layer.scale else np.ones_like(mean)
        return {"gamma": gamma, "beta": wide(layer.beta) if layer.center else np.zeros_like(mean)}
    names = ("depthwise_kernel", "pointwise_kernel") if isinstance(layer, SEPARABLE) else ("kernel",)
    found = {name: wide(getattr(layer, name)) for name in names}
    channels = channels_out(layer)
    return found | {"bias": np.zeros(channels) if layer.bias is None else wide(layer.bias)}


def channels_out(layer: Any) -> int:
    """The number of channels that come out of the layer."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return int(layer.moving_mean.shape[0])
    if isinstance(layer, DEPTHWISE):
        return int(np.prod(layer.kernel.shape[-2:]))
    return int(layer.units if isinstance(layer, keras.layers.Dense) else layer.filters)


def affine_of(norm: Any, now: Weights) -> Affine:
    """The affine map that a batch norm with moving statistics computes, with these weights."""
    scale = now["gamma"] / np.sqrt(wide(norm.moving_variance) + norm.epsilon)
    return Affine(scale, now["beta"] - wide(norm.moving_mean) * scale)


def behind(layer: Any, now: Weights, affine: Affine) -> Weights:
    """The layer's weights where the affine map follows it."""
    scale, shift = affine
    if isinstance(layer, keras.layers.BatchNormalization):
        return {"gamma": now["gamma"] * scale, "beta": now["beta"] * scale + shift}
    bias = {"bias": now["bias"] * scale + shift}
    if isinstance(layer, SEPARABLE):
        return now | {"pointwise_kernel": now["pointwise_kernel"] * scale} | bias
    kernel = now["kernel"]
    if isinstance(layer, TRANSPOSED):  # (..., out, in)
        return {"kernel": kernel * scale[:, None]} | bias
    if isinstance(layer, DEPTHWISE):  # (..., in, multiplier)
        return {"kernel": kernel * scale.reshape(kernel.shape[-2:])} | bias
    return {"kernel": kernel * scale} | bias


def in_front(layer: Any, now: Weights, affine: Affine) -> Weights:
    """The layer's weights where the affine map comes before it, which ``why_not_behind`` allows."""
    scale, shift = affine
    bias = now["bias"]
    if isinstance(layer, SEPARABLE):
        kernel, point = now["depthwise_kernel"], now["pointwise_kernel"]
        moved = _taps(kernel * shift[:, None]).reshape(-1)
        return now | {
            "depthwise_kernel": kernel * scale[:, None],
            "bias": bias + moved @ point.reshape(point.shape[-2:]),
        }
    kernel = now["kernel"]
    if isinstance(layer, DEPTHWISE):
        return {"kernel": kernel * scale[:, None], "bias": bias + _taps(kernel * shift[:, None]).reshape(-1)}
    if isinstance(layer, TRANSPOSED):
        return {"kernel": kernel * scale, "bias": bias + _taps(kernel * shift).sum(-1)}
    if isinstance(layer, keras.layers.Dense):
        return {"kernel": kernel * scale[:, None], "bias": bias + shift @ kernel}
    parts = kernel.reshape(*kernel.shape[:-1], layer.groups, -1)  # (..., in / groups, groups, out / groups)
    by_group = [each.reshape(layer.groups, -1).T[..., None] for each in affine]
    moved = (parts * by_group[1]).sum(tuple(range(parts.ndim - 2))).reshape(-1)
    return {"kernel": (parts * by_group[0]).reshape(kernel.shape), "bias": bias + moved}


def why_not_behind(layer: Any, affine: Affine) -> str | None:
    """Why the layer cannot take over an affine map in front of it, by its geometry; None if it can."""
    if isinstance(layer, keras.layers.Dense) or not affine.shift.any():
        return None
    one_tap = all(size == 1 for size in layer.kernel_size)
    if isinstance(layer, TRANSPOSED):
        if one_tap and all(size == 1 for size in np.atleast_1d(layer.strides)):
            return None
        return "it is transposed, and at its borders the shift would count less"
    return None if one_tap or layer.padding == "valid" else "it pads with zeros, which the shift would move too"


def _taps(kernel: F64) -> F64:
    """Summed over the places of the kernel, that is all axes but the last two."""
    found: F64 = kernel.sum(tuple(range(kernel.ndim - 2)))
    return found
