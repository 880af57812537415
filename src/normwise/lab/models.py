"""The networks of the experiments: dense layers, with or without batch normalization before each activation."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from normwise.lab.data import CLASSES, PIXELS
from normwise.torch import BatchNorm1d

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def constant(std: float) -> Callable[[int], float]:
    """The same standard deviation for every layer, as in "small random Gaussian values"."""
    return lambda _: std


def glorot(fan_in: int) -> float:
    """Keeps the variance of signals through linear layers: 1 / sqrt(fan_in), for layers as wide as their input."""
    return 1 / math.sqrt(fan_in)


def he(fan_in: int) -> float:
    """Keeps the mean square of signals through ReLU layers: sqrt(2 / fan_in)."""
    return math.sqrt(2 / fan_in)


class Dense(nn.Module):
    """Dense layers of equal width and a linear readout to the classes.

    Each layer is activate(normalize(linear(x))); without batch normalization, normalize does nothing. The linear part
    has a bias only where nothing is normalized: before a normalization that subtracts the mean, a bias has no effect.

    Args:
        depth: how many hidden layers.
        width: units in each.
        activation: a name in ``ACTIVATIONS``.
        batch_norm: whether to normalize.
        std: standard deviation of the initial weights from the number of inputs of a unit; biases begin at 0.
        seed: of the initial weights, which are the same with and without batch normalization.
        dtype: of parameters and statistics.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        activation: str,
        batch_norm: bool,
        std: Callable[[int], float],
        seed: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[activation]
        sizes = [PIXELS] + [width] * depth
        self.linear = nn.ModuleList(
            nn.Linear(before, after, bias=not batch_norm, dtype=dtype) for before, after in pairwise(sizes)
        )
        self.normalize = nn.ModuleList(
            BatchNorm1d(width, dtype=dtype) if batch_norm else nn.Identity() for _ in range(depth)
        )
        self.readout = nn.Linear(width, CLASSES, dtype=dtype)
        self._initialize(std, torch.Generator().manual_seed(seed))

    def _initialize(self, std: Callable[[int], float], generator: torch.Generator) -> None:
        for layer in (*self.linear, self.readout):
            assert isinstance(layer, nn.Linear)  # nn.ModuleList does not know what it holds
            nn.init.normal_(layer.weight, 0.0, std(layer.in_features), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes) from images of shape (n, pixels)."""
        x = images
        for linear, normalize in zip(self.linear, self.normalize, strict=True):
            x = self.activate(normalize(linear(x)))
        logits: torch.Tensor = self.readout(x)
        return logits
