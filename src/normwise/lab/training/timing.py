"""How long something takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn


def median_seconds(deed: Callable[[], object], repeats: int) -> float:
    """The median time of a deed that is done so many times."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        deed()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def of_layer(layer: nn.Module, width: int, *, batch: int, repeats: int, seed: int) -> float:
    """The median seconds of a layer's forward and backward.

    Args:
        layer: takes (n, width).
        width: units.
        batch: how many samples.
        repeats: how often it is timed.
        seed: of the samples.
    """
    x = torch.randn(batch, width, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    inputs = [x, *layer.parameters()]
    return median_seconds(lambda: torch.autograd.grad(layer(x).square().sum(), inputs), repeats)
