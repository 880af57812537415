"""How far stored statistics are from those of the data, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from normwise.facts import Array, LayerFacts

FAR = 0.25
"""A mean further off than so many standard deviations is wrong."""
FAR_LOG2 = 0.5
"""A variance whose ratio to the true one has a larger base-2 logarithm is wrong."""
CHANNELS = 0.05
"""A layer is in question when more than this share of its channels is wrong."""
CLEARLY = 3.0
"""Standard errors that a difference has to exceed."""


class Gap(NamedTuple):
    """How a layer's stored statistics differ from those of its own input.

    Attributes:
        z: shape (C,), of the mean, in standard deviations.
        log2: shape (C,), of the variance, the base-2 logarithm of stored over measured.
        wrong: the share of channels that are wrong, by more than the data's own uncertainty.
    """

    z: Array
    log2: Array
    wrong: float


def gap(layer: LayerFacts) -> Gap | None:
    """The gap of one layer, measured with every norm on batch statistics, so that it alone is judged.

    Args:
        layer: with ``own``, or there is no gap to tell.
    """
    if layer.own is None or layer.mean is None or layer.var is None:
        return None
    pooled = layer.own.pooled()
    spread = np.asarray(pooled.var) + layer.eps
    with np.errstate(all="ignore"):
        z = np.abs(layer.mean - pooled.mean) / np.sqrt(spread)
        log2 = np.log2((layer.var + layer.eps) / spread)
    error = layer.own.error(layer.eps)
    known = np.where(np.isfinite(error), error, 0.0)
    wrong = (z > FAR + CLEARLY * known) | (np.abs(log2) > FAR_LOG2 + 2 * CLEARLY * known) | ~np.isfinite(z + log2)
    return Gap(z, log2, float(wrong.mean()))


def suspects(layers: Iterable[LayerFacts]) -> list[str]:
    """The names of the layers in question, the most wrong first."""
    gaps = {layer.name: found for layer in layers if (found := gap(layer)) is not None}
    named = [name for name, found in gaps.items() if found.wrong > CHANNELS]
    return sorted(named, key=lambda name: -gaps[name].wrong)
