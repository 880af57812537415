"""Measurements of running time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def now() -> float:
    """Seconds of a clock, after what a GPU still had to do."""
    if torch.empty(0).device.type != "cpu":  # of new tensors, where a run was given one
        torch.accelerator.synchronize()
    return perf_counter()


def median_seconds(deed: Callable[[], object], repeats: int) -> float:
    """The median time of a deed that is done so many times."""
    found = []
    for _ in range(repeats):
        begin = now()
        deed()
        found.append(now() - begin)
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


def in_turns(deeds: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The shortest time of each of some deeds, which take turns, so that a disturbance falls on all of them.

    The shortest and not the median one, because what else a machine does only adds to a time.

    Args:
        deeds: what to time.
        repeats: how many turns are timed; one more comes first, which also makes what is kept from then on.
    """
    found = [math.inf] * len(deeds)
    for turn in range(repeats + 1):
        for place, deed in enumerate(deeds):
            begin = now()
            deed()
            seconds = now() - begin
            if turn:
                found[place] = min(found[place], seconds)
    return found


def step_of(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """A step of training: loss, gradients, and an update, of length 0, so that the next one is like it."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(cross_entropy(model(images), labels), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(gradient, alpha=0.0)
