"""Gradient descent for a stack of networks on several data sets at once, normalized together or apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from normwise.lab.data.splits import Digits, Split, batches
from normwise.lab.networks.stack import Stack
from normwise.lab.training.stacks import accuracies, losses, train_stack
from normwise.torch import PerDomain, domain
from normwise.torch.models.recalibration.recalibrate import recalibrate


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


def accuracies_on_all(stack: Stack, data: Mapping[str, Digits], *, estimated: str = "") -> dict[str, list[float]]:
    """Each member's accuracies on every data set, in its domain.

    Args:
        stack: to measure.
        data: by the names of the domains.
        estimated: a name for the mean test accuracy with statistics that are estimated afterwards for each data set
            alone; empty: that is not measured.

    Returns:
        ``validation`` and ``test``, means over the data sets; and the test accuracy on each, by its name.
    """
    validation, found = np.zeros(stack.members), dict[str, list[float]]()
    for name, each in data.items():
        with _within(stack, name):
            validation += np.array(accuracies(stack, each.validation)) / len(data)
            found[name] = accuracies(stack, each.test)
    found["test"] = np.mean([found[name] for name in data], axis=0).tolist()
    if estimated:
        own = []
        for each in data.values():
            other = copy.deepcopy(stack)
            recalibrate(other, [each.train.images])
            own.append(accuracies(other, each.test))
        found[estimated] = np.mean(own, axis=0).tolist()
    return found | {"validation": validation.tolist()}


def _within(stack: Stack, name: str) -> AbstractContextManager[object]:
    """The block of a domain; none for a stack that has one set of statistics for all."""
    apart = any(isinstance(module, PerDomain) for module in stack.modules())
    return domain(stack, name) if apart else nullcontext()


def _loss(stack: Stack, name: str, images: Tensor, labels: Tensor) -> Tensor:
    with _within(stack, name):
        return losses(stack(images), labels)


def train_apart(
    stacks: Mapping[str, Stack], sets: Mapping[str, Split], *, rates: Sequence[float], steps: int, each: int, seed: int
) -> None:
    """Train a network of its own for each data set, on the batches that ``train_on_all`` would take of it.

    Args:
        stacks: by the names of the data sets; are changed in place.
        sets: what to train on.
        rates: one per member.
        steps: how many steps.
        each: images in a step.
        seed: of the orders of the images.
    """
    for i, (name, stack) in enumerate(stacks.items()):
        source = batches(sets[name], each, len(sets) * seed + i)
        train_stack(stack, source, rates=rates, steps=steps, batch=each, seed=seed)


def accuracies_apart(stacks: Mapping[str, Stack], data: Mapping[str, Digits]) -> dict[str, list[float]]:
    """Each member's accuracies where every data set has a network of its own, named as by ``accuracies_on_all``."""
    found = {name: accuracies(stacks[name], each.test) for name, each in data.items()}
    validation = [accuracies(stacks[name], each.validation) for name, each in data.items()]
    means = {"test": list(found.values()), "validation": validation}
    return found | {name: np.mean(values, axis=0).tolist() for name, values in means.items()}
