"""The networks of the experiments: dense layers, with or without a normalization before or after each activation.

The others are in files of their own: ``convolutional``, ``residual`` and ``recurrent``. All draw their weights from one
seed in an order that does not depend on the normalization, so that arms that are compared begin alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from normwise.lab.data.splits import CLASSES, pixels
from normwise.torch import BatchNorm1d

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


Norm = Callable[[int], nn.Module]
"""Makes the normalization of a layer from its number of features or channels."""
Place = Literal["before", "after"]
"""The activation, where the normalization stands."""


def constant(std: float) -> Callable[[int], float]:
    """The same standard deviation for every layer, as in "small random Gaussian values"."""
    return lambda _: std


def glorot(fan_in: int) -> float:
    """Keeps the variance of signals through linear layers: 1 / sqrt(fan_in), for layers as wide as their input."""
    return 1 / math.sqrt(fan_in)


def he(fan_in: int) -> float:
    """Keeps the mean square of signals through ReLU layers: sqrt(2 / fan_in)."""
    return math.sqrt(2 / fan_in)


def draw(layer: nn.Linear | nn.Conv2d, std: float, generator: torch.Generator) -> None:
    """Give a layer normal weights of a standard deviation, and a bias of 0 if it has one."""
    nn.init.normal_(layer.weight, 0.0, std, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Dense(nn.Module):
    """Dense layers of equal width and a linear readout to the classes.

    Each layer is activate(normalize(linear(x))), or normalize(activate(linear(x))); without a normalization, normalize
    does nothing. The linear part has no bias before a batch normalization, which would subtract it again.

    Args:
        depth: how many hidden layers.
        width: units in each.
        activation: a name in ``ACTIVATIONS``.
        batch_norm: whether to normalize by the package's batch norm.
        norm: another normalization, in its place.
        place: the normalization comes before or after the activation.
        std: standard deviation of the initial weights from the number of inputs of a unit; biases begin at 0.
        seed: of the initial weights, which are the same with and without a normalization.
        dtype: of parameters and statistics; ``norm`` makes its own.
        inputs: numbers per example; None: as many as an image of the data has.
    """

    def __init__(
        self,
        *,
        depth: int,
        width: int,
        activation: str = "relu",
        batch_norm: bool = False,
        norm: Norm | None = None,
        place: Place = "before",
        std: Callable[[int], float] = he,
        seed: int,
        dtype: torch.dtype = torch.float32,
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        self.activate = ACTIVATIONS[activation]
        self.place = place
        plain = norm is None and not batch_norm
        bias = plain or norm is not None or place == "after"
        sizes = [pixels() if inputs is None else inputs] + [width] * depth
        self.linear = nn.ModuleList(
            nn.Linear(before, after, bias=bias, dtype=dtype) for before, after in pairwise(sizes)
        )
        make = norm or (lambda features: BatchNorm1d(features, dtype=dtype))
        self.normalize = nn.ModuleList(nn.Identity() if plain else make(width) for _ in range(depth))
        self.readout = nn.Linear(width, CLASSES, dtype=dtype)
        self._initialize(std, torch.Generator().manual_seed(seed))

    def _initialize(self, std: Callable[[int], float], generator: torch.Generator) -> None:
        for layer in (*self.linear, self.readout):
            assert isinstance(layer, nn.Linear)  # nn.ModuleList does not know what it holds
            draw(layer, std(layer.in_features), generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes) from images of shape (n, pixels)."""
        x = images
        for linear, normalize in zip(self.linear, self.normalize, strict=True):
            x = linear(x)
            x = self.activate(normalize(x)) if self.place == "before" else normalize(self.activate(x))
        logits: torch.Tensor = self.readout(x)
        return logits
