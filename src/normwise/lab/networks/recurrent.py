"""A recurrent network that reads an image as a sequence, with a normalization shared by its steps or one for each."""

from __future__ import annotations

import torch
from torch import nn

from normwise.lab.data.splits import CLASSES, Split
from normwise.lab.networks.dense import Norm, draw, glorot

ROWS = 8
"""Of an image of the digits."""


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
    """Images of the digits as sequences of rows, and some blank ones in front: shape (n, rows, 8)."""
    rows = data.images.view(-1, ROWS, 8)
    return Split(torch.cat((rows.new_zeros(len(rows), blank, 8), rows), dim=1), data.labels, data.rows)
