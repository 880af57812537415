"""A recurrent network that reads an image as a sequence, with a normalization shared by its steps or one for each."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from normwise.lab.data.splits import CLASSES, Split, shape
from normwise.lab.networks.dense import Norm, draw, glorot

ROWS = 8
"""The rows of an image of the digits; of any other, ``sequence_shape()[0]``."""


def sequence_shape() -> tuple[int, int]:
    """The number of rows of an image, and the number of values in a row, with those of all colours."""
    channels, height, width = shape()
    return height, channels * width


class Recurrent(nn.Module):
    """h = tanh(normalize(W x + U h)) over a sequence, and a linear readout from the last h.

    Args:
        inputs: numbers per step.
        width: units of h.
        norm: makes the normalization from the units; None: none.
        own: how many steps have a normalization of their own; steps beyond take the last one's. 1: one for all.
        seed: of the initial weights, which are the same with and without a normalization.
    """

    def __init__(self, *, inputs: int, width: int, norm: Norm | None, seed: int, own: int = 1) -> None:
        super().__init__()
        self.inwards = nn.Linear(inputs, width, bias=False)
        self.onwards = nn.Linear(width, width)
        self.normalize = nn.ModuleList(norm(width) if norm else nn.Identity() for _ in range(own))
        self.readout = nn.Linear(width, CLASSES)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.inwards, self.onwards, self.readout):
            draw(layer, glorot(layer.in_features), generator)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Logits of shape (n, classes) from sequences of shape (n, steps, inputs)."""
        h = sequences.new_zeros(len(sequences), self.onwards.in_features)
        for step, x in enumerate(sequences.unbind(dim=1)):
            normalize = self.normalize[min(step, len(self.normalize) - 1)]
            h = torch.tanh(normalize(self.inwards(x) + self.onwards(h)))
        logits: torch.Tensor = self.readout(h)
        return logits


def sequences(data: Split, blank: int = 0) -> Split:
    """Images as sequences of rows, and some blank ones in front: shape (n, rows, numbers of a row)."""
    count, numbers = sequence_shape()
    channels, height, width = shape()
    rows = data.images.view(-1, channels, height, width).transpose(1, 2).reshape(-1, count, numbers)
    return Split(torch.cat((rows.new_zeros(len(rows), blank, numbers), rows), dim=1), data.labels, data.rows)


def of_radius(radius: float, width: int, generator: torch.Generator) -> torch.Tensor:
    """A square matrix of normal numbers, in float64, whose largest eigenvalue has the absolute value ``radius``."""
    matrix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    scaled: torch.Tensor = matrix * (radius / torch.linalg.eigvals(matrix).abs().max())
    return scaled


def gradients_over_steps(
    images: torch.Tensor,
    *,
    steps: int,
    width: int,
    radius: float,
    shared: bool,
    activate: Callable[[torch.Tensor], torch.Tensor],
    norm: Norm | None,
    seed: int,
) -> list[float]:
    """Log10 of the norm of the gradient by h at every step of h = activate(normalize(W h)), from the first h on.

    The first h is a random projection of the images, and the gradient that of a random projection of the last h.

    Args:
        images: shape (n, pixels), float64.
        steps: how often W is applied.
        width: numbers in h.
        radius: the largest absolute eigenvalue of W.
        shared: the same W at every step, or another one of that radius at each.
        activate: of units.
        norm: makes the normalization from the width; None: none.
        seed: of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    inwards = torch.randn(images.shape[1], width, generator=generator, dtype=torch.float64)
    outwards = torch.randn(len(images), width, generator=generator, dtype=torch.float64)
    normalize = norm(width).double() if norm else nn.Identity()
    h = (images @ inwards / math.sqrt(images.shape[1])).requires_grad_()
    states = [h]
    weights = of_radius(radius, width, generator)
    for step in range(steps):
        if step and not shared:
            weights = of_radius(radius, width, generator)
        h = activate(normalize(h @ weights.T))
        states.append(h)
    gradients = torch.autograd.grad((h * outwards).sum(), states)
    return [math.log10(float(gradient.norm())) for gradient in gradients]
