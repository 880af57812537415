"""Plain gradient descent on batches, and accuracy: the loop of all experiments that train."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import CLASSES, Digits, Split, batches


def train(
    model: nn.Module,
    data: Split,
    *,
    rate: float,
    steps: int,
    batch: int,
    seed: int,
    schedule: Callable[[int], float] | None = None,
    distort: Callable[[torch.Tensor], torch.Tensor] | None = None,
    look: Callable[[int], None] | None = None,
    look_at: Collection[int] = (),
) -> bool:
    """Train a model with stochastic gradient descent, without momentum or weight decay.

    Args:
        model: is changed in place.
        data: what to train on.
        rate: the learning rate.
        steps: how many steps.
        batch: images per step.
        seed: of the order of the images.
        schedule: what the rate is multiplied by at a step (counted from 0); None: the rate is constant.
        distort: makes what the model is given from the images of a batch; None: the images themselves.
        look: called with the number of steps done, in inference mode and without gradients.
        look_at: after which steps.

    Returns:
        False if the loss became infinite or NaN; training stops there, because nothing comes back from that.
    """
    parameters = list(model.parameters())
    source = batches(data, batch, seed)
    model.train()
    for step in range(1, steps + 1):
        images, labels = next(source)
        loss = cross_entropy(model(distort(images) if distort else images), labels)
        here = rate * schedule(step - 1) if schedule else rate
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():  # by hand: the optimizer classes take a fifth of the time of a step of these small nets
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=here)
        if not math.isfinite(loss.item()):
            return False
        if look is not None and step in look_at:
            model.eval()
            with torch.no_grad():
                look(step)
            model.train()
    return True


def to_a_tenth(steps: int) -> Callable[[int], float]:
    """A schedule that falls exponentially, to a tenth after all steps: what was learnt last counts less at the end."""
    return lambda step: float(0.1 ** (step / steps))


def half_a_cosine(steps: int) -> Callable[[int], float]:
    """A schedule that falls to 0 along half a cosine."""
    return lambda step: (1 + math.cos(math.pi * step / steps)) / 2


def accuracies(model: nn.Module, data: Digits) -> dict[str, float]:
    """The accuracies on validation images, to choose by, and on test images, to report."""
    return {"validation": accuracy(model, data.validation), "test": accuracy(model, data.test)}


def accuracy(model: nn.Module, data: Split) -> float:
    """Share of images that a model classifies correctly in inference mode; a model without finite logits guesses."""
    model.eval()
    with torch.no_grad():
        logits = model(data.images)
    if not torch.isfinite(logits).all():
        return 1 / CLASSES  # not argmax, which takes NaN for the largest number
    return float((logits.argmax(dim=1) == data.labels).double().mean())


def looks(steps: int, *, growth: float = 1.1, first: int = 10) -> list[int]:
    """Numbers of steps, each about ``growth`` times the one before: the same relative precision early and late."""
    found: list[int] = []
    at = float(first)
    while at < steps:
        if not found or round(at) > found[-1]:
            found.append(round(at))
        at *= growth
    return [*found, steps]
