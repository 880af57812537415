"""Facts about single channels: their gain, and the channels that carry nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from normwise.facts import Array, LayerFacts, Seen

Mask = NDArray[np.bool_]

ROUNDING = {"float64": 2.0**-50, "float32": 2.0**-21, "float16": 2.0**-9, "bfloat16": 2.0**-6}
"""A spread below this share of the mean is nothing but rounding."""
LARGE_GAIN = 1000.0
"""A channel is not multiplied by more in a healthy model."""
LARGE_SPREAD = 30.0
"""Standard deviations of what comes out of a channel: a healthy one's is its scale."""
SMALL_SCALE = 1e-3
"""A scale below this share of its layer's largest lets nothing through."""
DECAYED_SCALE = 0.05
"""A healthy scale that started at 1 stays above 0.1."""
DECAYED_SHARE = 0.25
"""Scales of more channels than this share of a layer's are not that small in a healthy model."""
ONE_SIDE = 0.95
"""Small scales that decay left are of one sign; those that started at 0 and are learning have both."""


def gain(layer: LayerFacts) -> Array:
    """The factor by which the layer multiplies each channel at inference, without the sign, shape (C,)."""
    assert layer.var is not None  # a layer with running statistics
    with np.errstate(all="ignore"):
        plain: Array = 1 / np.sqrt(layer.var + layer.eps)
    return np.nan_to_num(plain if layer.scale is None else np.abs(layer.scale) * plain, nan=0.0)


def constant(layer: LayerFacts) -> Mask:
    """A mask of the channels whose input is the same for every sample, except for rounding, shape (C,)."""
    seen = [each for each in (layer.own, layer.served) if each is not None and np.isfinite(each.var).all()]
    if layer.on_data or not seen:
        seen = seen[:1]
    if not seen:
        assert layer.mean is not None  # a layer with running statistics
        return np.zeros(len(layer.mean), dtype=bool)
    # In both: behind a layer whose statistics are wrong everything may be constant at inference.
    found: Mask = np.logical_and.reduce([_constant_in(each, layer) for each in seen])
    return found


def _constant_in(seen: Seen, layer: LayerFacts) -> Mask:
    pooled = seen.pooled()
    rounding = ROUNDING.get("float32" if layer.input is None else layer.input.dtype, 2.0**-21)
    with np.errstate(all="ignore"):
        floor = (rounding * np.abs(np.asarray(pooled.mean))) ** 2
        largest = float(np.nanmax(np.asarray(pooled.var), initial=0.0))
        found: Mask = np.asarray(pooled.var) <= np.fmax(floor, 1e-12 * largest)
    return found


def exploding(layer: LayerFacts) -> Mask:
    """A mask of the channels whose gain makes their smallest noise outweigh the others' signal, shape (C,)."""
    size = gain(layer)
    with np.errstate(all="ignore"):
        out = size if layer.own is None else size * np.sqrt(np.asarray(layer.own.pooled().var))
    found: Mask = (size > LARGE_GAIN) & (out > LARGE_SPREAD) & ~constant(layer)
    return found


def lost_scale(layer: LayerFacts) -> Mask:
    """A mask of the channels with a scale next to 0, shape (C,); none where all are exactly 0, as some layers start."""
    assert layer.mean is not None  # a layer with running statistics
    if layer.scale is None or not layer.scale.any():
        return np.zeros(len(layer.mean), dtype=bool)
    found: Mask = np.abs(layer.scale) < SMALL_SCALE * np.abs(layer.scale).max()
    return found


def decayed_share(layer: LayerFacts) -> float:
    """The share of a layer's scales that weight decay has brought next to nothing, from one side."""
    if layer.scale is None or layer.learns is False:
        return 0.0
    small = (np.abs(layer.scale) < DECAYED_SCALE) & (layer.scale != 0)
    if not small.any():
        return 0.0
    side = max(float((layer.scale[small] > 0).mean()), float((layer.scale[small] < 0).mean()))
    return float(small.mean()) if side > ONE_SIDE else 0.0
