"""The drift of running statistics from those of data, and the dead channels, in any framework."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class LayerDrift(NamedTuple):
    """One layer's running statistics, compared with those of data.

    Attributes:
        drift: root mean square over the channels of (batch mean - running mean) / sqrt(running variance + eps).
        variance_ratio: geometric mean over the channels of (batch variance + eps) / (running variance + eps).
        dead: which channels have the same output for all values, shape (C,).
    """

    drift: float
    variance_ratio: float
    dead: NDArray[np.bool_]


def drift_between(before: tuple[F64, F64], seen: tuple[F64, F64], eps: float, dead: NDArray[np.bool_]) -> LayerDrift:
    """The drift of one layer.

    Args:
        before: its running mean and variance, shape (C,).
        seen: those of what came in.
        eps: the layer's.
        dead: which channels have the same output for all values.

    Example:
        >>> one, none = np.ones(2), np.zeros(2)
        >>> drift_between((none, one), (2 * one, one), 0.0, none > 0).drift
        2.0
    """
    offset = (seen[0] - before[0]) / np.sqrt(before[1] + eps)
    ratio = np.log((seen[1] + eps) / (before[1] + eps))
    return LayerDrift(float(np.sqrt(np.mean(offset**2))), float(np.exp(np.mean(ratio))), dead)


def as_logs(found: dict[str, LayerDrift], *, per_layer: bool, called: str) -> dict[str, float]:
    """The numbers for the logs: of the model, and of each layer too.

    Args:
        found: the layers by their paths.
        per_layer: whether the logs have each layer.
        called: the callback, which warns where there is nothing to log.

    Example:
        >>> as_logs({"bn": LayerDrift(0.5, 2.0, np.array([True, False]))}, per_layer=False, called="MonitorStatistics")
        {'drift': 0.5, 'dead_channels': 0.5}
    """
    if not found:
        warnings.warn(
            f"{called} has nothing to log: no batch norm of the model got finite numbers from the data.", stacklevel=2
        )
        return {}
    dead = np.concatenate([layer.dead for layer in found.values()])
    logs = {"drift": max(layer.drift for layer in found.values()), "dead_channels": float(dead.mean())}
    for path, layer in found.items() if per_layer else ():
        logs[f"{path}/drift"] = layer.drift
        logs[f"{path}/variance_ratio"] = layer.variance_ratio
        logs[f"{path}/dead"] = float(layer.dead.mean())
    return logs
