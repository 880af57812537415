"""Gradient descent for a stack of networks on several data sets at once, normalized together or apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from normwise.lab.data.splits import Split, batches
from normwise.lab.networks.stack import Stack
from normwise.lab.training.stacks import losses
from normwise.torch import domain


def train_on_all(
    stack: Stack,
    sets: Mapping[str, Split],
    *,
    rates: Sequence[float],
    steps: int,
    each: int,
    mixed: bool,
    seed: int,
) -> None:
    """Train every member on the mean loss of all data sets.

    Args:
        stack: is changed in place.
        sets: what to train on, by the names of the domains.
        rates: one per member.
        steps: how many steps.
        each: images of each data set in a step.
        mixed: all in one batch; otherwise one batch after the other, in their domains.
        seed: of the orders of the images.
    """
    names = tuple(sets)
    sources = {name: batches(sets[name], each, len(names) * seed + i) for i, name in enumerate(names)}
    parameters = list(stack.parameters())
    each_rate = torch.tensor(rates).view(-1, 1)
    stack.train()
    for step in range(steps):
        drawn = {name: next(sources[name]) for name in names}
        if mixed:
            images, labels = (torch.cat(part) for part in zip(*drawn.values(), strict=True))
            loss = losses(stack(images), labels)
        else:  # by turns first, so that the averages lean to none
            order = names if step % 2 else names[::-1]
            loss = torch.stack([_loss(stack, name, *drawn[name]) for name in order]).mean(dim=0)
        gradients = torch.autograd.grad(loss.sum(), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                slope = gradient.reshape(stack.members, -1)
                parameter.view(stack.members, -1).addcmul_(slope, each_rate, value=-1)


def _loss(stack: Stack, name: str, images: Tensor, labels: Tensor) -> Tensor:
    with domain(name):
        return losses(stack(images), labels)
