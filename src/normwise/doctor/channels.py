"""What becomes of single channels: their gain, and those that carry nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from normwise.facts import Array, LayerFacts

Mask = NDArray[np.bool_]

ROUNDING = {"float64": 2.0**-50, "float32": 2.0**-21, "float16": 2.0**-9, "bfloat16": 2.0**-6}
"""A spread below this share of the mean is nothing but rounding."""
SMALL_SCALE = 1e-3
"""A scale below this share of its layer's largest lets nothing through."""


def gain(layer: LayerFacts) -> Array:
    """What the layer multiplies each channel by at inference, without the sign, shape (C,)."""
    assert layer.var is not None  # a layer with running statistics
    with np.errstate(all="ignore"):
        plain: Array = 1 / np.sqrt(layer.var + layer.eps)
    return np.nan_to_num(plain if layer.scale is None else np.abs(layer.scale) * plain, nan=0.0)


def constant(layer: LayerFacts) -> Mask:
    """Which channels' input is the same for every sample, but for rounding, shape (C,)."""
    seen = layer.own if layer.on_data or layer.served is None else layer.served
    if seen is None or not np.isfinite(seen.var).all():
        seen = layer.own
    if seen is None:
        assert layer.mean is not None  # a layer with running statistics
        return np.zeros(len(layer.mean), dtype=bool)
    pooled = seen.pooled()
    rounding = ROUNDING.get("float32" if layer.input is None else layer.input.dtype, 2.0**-21)
    with np.errstate(all="ignore"):
        floor = (rounding * np.abs(np.asarray(pooled.mean))) ** 2
        largest = float(np.nanmax(np.asarray(pooled.var), initial=0.0))
        found: Mask = np.asarray(pooled.var) <= np.fmax(floor, 1e-12 * largest)
    return found


def lost_scale(layer: LayerFacts) -> Mask:
    """Which channels' scale is next to 0, shape (C,); none where all are exactly 0, as some layers start."""
    assert layer.mean is not None  # a layer with running statistics
    if layer.scale is None or not layer.scale.any():
        return np.zeros(len(layer.mean), dtype=bool)
    found: Mask = np.abs(layer.scale) < SMALL_SCALE * np.abs(layer.scale).max()
    return found
