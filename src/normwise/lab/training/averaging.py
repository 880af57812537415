"""Averages of the weights that networks had during training, and statistics that stay while training goes on."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from normwise.lab.networks.stack import Stack


class Average:
    """Looks at networks during training and averages their parameters and their running statistics.

    Args:
        stack: what trains; stays as it is.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack, self.seen = stack, 0
        self.sums: dict[str, Tensor] = {}

    def __call__(self, step: int) -> None:  # noqa: ARG002  # every look counts the same
        """Look once."""
        self.seen += 1
        for name, value in self.stack.state_dict().items():
            if value.is_floating_point():
                self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value

    def networks(self, *, statistics: bool) -> Stack:
        """Networks of the averaged parameters.

        Args:
            statistics: with the averaged running statistics too, and not those of the last networks.
        """
        found = copy.deepcopy(self.stack)
        parameters = dict(found.named_parameters())
        chosen = {name: total for name, total in self.sums.items() if statistics or name in parameters}
        found.load_state_dict({name: total / self.seen for name, total in chosen.items()}, strict=False)
        return found


class Held(nn.Module):
    """A normalization that uses its running statistics in training too, and no longer changes them.

    Args:
        layer: has been trained.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.eval()

    def train(self, mode: bool = True) -> Self:
        """Leave the layer in inference mode."""
        super().train(mode)
        self.layer.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Shape (1, channels, images) in and out."""
        out: Tensor = self.layer(x)
        return out


def hold(stack: Stack) -> None:
    """Keep the statistics of a stack's layers from now on; scales, shifts and weights go on learning."""
    stack.normalize = nn.ModuleList(Held(layer) for layer in stack.normalize)
