"""Recurrent networks side by side that read an image as a sequence, with one normalization or one for each step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from normwise.lab.data.splits import CLASSES, Split, shape
from normwise.lab.networks.dense import Norm, glorot
from normwise.lab.networks.stack import Normalization, Together

ROWS = 8
"""The rows of an image of the digits; of any other, ``sequence_shape()[0]``."""


def sequence_shape(parts: int = 1) -> tuple[int, int]:
    """The number of steps of an image, each a row or one of its parts, and of values in a step, with all colours."""
    channels, height, width = shape()
    return height * parts, channels * width // parts


def parts_for(steps: int) -> int:
    """The number of equal parts of a row that makes an image a sequence of about so many steps.

    Example:
        >>> parts_for(64)
        8
    """
    _, height, width = shape()
    divisors = [parts for parts in range(1, width + 1) if width % parts == 0]
    return min(divisors, key=lambda parts: abs(height * parts - steps))


class Recurrent(Together):
    """h = tanh(normalize(W x + U h)) over a sequence and a linear readout from the last h, ``members`` times.

    Args:
        members: how many networks, which begin with the same weights and see the same sequences.
        inputs: numbers per step.
        width: units of h.
        normalize: makes the normalization from the channels of all members, ``members * width``; None: none.
        own: how many steps have a normalization of their own; steps beyond take the last one's. 1: one for all.
        seed: of the initial weights, which are the same with and without a normalization.
    """

    def __init__(
        self, members: int, *, inputs: int, width: int, normalize: Normalization | None, seed: int, own: int = 1
    ) -> None:
        super().__init__()
        self.members, self.width = members, width
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            torch.randn(behind, before, generator=generator) * glorot(before)
            for before, behind in ((inputs, width), (width, width), (width, CLASSES))
        ]
        self.weights = nn.ParameterList(nn.Parameter(each.repeat(members, 1, 1)) for each in drawn)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, size, 1)) for size in (width, CLASSES))
        self.normalize = nn.ModuleList(normalize(members * width) if normalize else nn.Identity() for _ in range(own))

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits of shape (members, classes, n) from sequences of shape (n, steps, inputs)."""
        inwards, onwards, readout = self.weights
        received = torch.matmul(inwards, sequences.permute(1, 2, 0)[:, None])  # (steps, members, width, n)
        h = received.new_zeros(received.shape[1:])
        for step, x in enumerate(received):
            normalize = self.normalize[min(step, len(self.normalize) - 1)]
            y = x + torch.baddbmm(self.biases[0], onwards, h)
            h = torch.tanh(normalize(y.view(1, -1, y.shape[2])).view(y.shape))
        return torch.baddbmm(self.biases[1], readout, h)


def sequences(data: Split, blank: int = 0, parts: int = 1) -> Split:
    """Images as sequences of rows, or of parts of rows from the left to the right, and some blank rows in front.

    Args:
        data: the images.
        blank: how many rows.
        parts: into how many steps a row is cut, a divisor of the width.

    Returns:
        Images of shape (n, steps, numbers per step).
    """
    count, numbers = sequence_shape(parts)
    channels, height, width = shape()
    steps = data.images.view(-1, channels, height, parts, width // parts).permute(0, 2, 3, 1, 4)
    steps = steps.reshape(-1, count, numbers)
    blanks = steps.new_zeros(len(steps), blank * parts, numbers)
    return Split(torch.cat((blanks, steps), dim=1), data.labels, data.rows)


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
