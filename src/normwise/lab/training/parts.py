"""Gradient descent on some of a network's parameters, the others frozen."""

from __future__ import annotations

from itertools import islice

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import Split, batches


def thawed(model: nn.Module, part: nn.Module) -> list[nn.Parameter]:
    """The parameters of a part of a network; all others are frozen."""
    chosen = list(part.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is each for each in chosen))
    return chosen


def train_only(
    parameters: list[nn.Parameter], model: nn.Module, data: Split, *, rate: float, steps: int, batch: int, seed: int
) -> None:
    """Train some parameters to the last step, whatever becomes of the loss.

    Args:
        parameters: are changed in place.
        model: that they are of.
        data: what to train on.
        rate: the learning rate.
        steps: how many steps.
        batch: images per step.
        seed: of the order of the images.
    """
    model.train()
    for images, labels in islice(batches(data, batch, seed), steps):
        gradients = torch.autograd.grad(cross_entropy(model(images), labels), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=rate)
