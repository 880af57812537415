"""Facts of small made-up models, sick and healthy, which the checks show themselves on."""

from __future__ import annotations

from typing import Any

import numpy as np

from normwise.facts import Array, LayerFacts, ModelFacts, Outcome, Seen

CHANNELS = 8


def seen(
    mean: float | Array = 0.0, var: float | Array = 1.0, *, batches: int = 8, count: float = 512, effective: float = 64
) -> Seen:
    """The moments of a layer's input: batches whose means differ as those of so many independent values do.

    Args:
        mean: of the values, one number or shape (C,).
        var: of the values.
        batches: how many.
        count: values per channel in a batch.
        effective: how many independent ones these are worth.
    """
    spread = np.resize([1.0, -1.0], batches)[:, None] * np.sqrt(np.asarray(var) / effective)
    means = np.broadcast_to(np.asarray(mean, dtype=np.float64) + spread, (batches, CHANNELS))
    variances = np.broadcast_to(np.asarray(var, dtype=np.float64), (batches, CHANNELS))
    return Seen(means.copy(), variances.copy(), np.full((batches, CHANNELS), count), np.full(batches, 32.0))


def layer(name: str = "bn", **given: Any) -> LayerFacts:
    """A healthy batch norm, but for what is given."""
    ones = np.ones(CHANNELS)
    settings: dict[str, Any] = {
        "kind": "BatchNorm2d", "eps": 1e-5, "weight_of_new": 0.1, "scale": ones, "shift": 0 * ones,
        "mean": 0 * ones, "var": ones * (1 + 1 / 64), "updates": 500, "own": seen(), "served": seen(), "calls": 1.0,
    }  # fmt: skip
    for field in ("mean", "var", "scale", "shift"):
        if isinstance(given.get(field), int | float):
            given[field] = given[field] * ones
    return LayerFacts(name, **{**settings, **given})


def model(*layers: LayerFacts, apart: float = 0.0, **given: Any) -> ModelFacts:
    """A model of these layers, whose output changes by so much of its spread when its statistics are corrected."""
    outputs = np.linspace(-1, 1, 64)[:, None]
    settings: dict[str, Any] = {
        "batches": 8, "samples": 256, "stored": Outcome(outputs * (1 + apart)), "recalibrated": Outcome(outputs),
        "by_batch": Outcome(outputs), "shares": {each.name: apart for each in layers} if apart else {},
    }  # fmt: skip
    return ModelFacts("torch", layers, **{**settings, **given})
