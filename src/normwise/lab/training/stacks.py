"""Gradient descent for a stack of networks, each at its own rate, and the accuracy of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import CLASSES, Digits, Split, batches
from normwise.lab.networks.stack import Together


def train_stack(
    stack: Together,
    data: Split | Iterator[tuple[Tensor, Tensor]],
    *,
    rates: Sequence[float],
    steps: int,
    batch: int,
    seed: int,
    decay: Sequence[float] = (),
    schedule: Callable[[int], Tensor | float] | None = None,
    look: Callable[[int], None] | None = None,
    look_at: Collection[int] = (),
) -> list[bool]:
    """Train every member with stochastic gradient descent on the same batches, at its own rate.

    Args:
        stack: is changed in place. A member whose loss becomes infinite stays so and does not disturb the others.
        data: what to train on, in batches drawn at random; or the batches themselves.
        rates: one per member.
        steps: how many steps.
        batch: images per step.
        seed: of the order of the images.
        decay: one L2 weight per member, of the penalty decay / 2 * sum(weights^2) over all weights but the biases, the
            scales and the shifts; empty: none.
        schedule: what the rates are multiplied by at a step (counted from 0): a number, or one per member.
        look: called with the number of steps done, in inference mode and without gradients.
        look_at: after which steps.

    Returns:
        For each member whether its last loss was finite.
    """
    parameters = list(stack.parameters())
    weights = {id(weight) for weight in stack.weights}
    penalty = torch.tensor(decay).view(-1, 1) if any(decay) else None
    each = torch.tensor(rates, dtype=parameters[0].dtype)
    source = batches(data, batch, seed) if isinstance(data, Split) else data
    loss = torch.zeros(stack.members)
    stack.train()
    for step in range(steps):
        images, labels = next(source)
        loss = losses(stack(images), labels)
        gradients = torch.autograd.grad(loss.sum(), parameters)
        rate = (each if schedule is None else each * schedule(step)).view(-1, 1)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                flat, slope = parameter.view(stack.members, -1), gradient.reshape(stack.members, -1)
                if penalty is not None and id(parameter) in weights:
                    slope = slope + penalty * flat
                flat.addcmul_(slope, rate, value=-1)
        if look is not None and step + 1 in look_at:
            stack.eval()
            with torch.no_grad():
                look(step + 1)
            stack.train()
    return torch.isfinite(loss).tolist()


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each member, shape (members,), from logits (members, classes, n) and labels (n,)."""
    return cross_entropy(logits, labels.expand(len(logits), -1), reduction="none").mean(dim=1)


def accuracies(stack: Together, data: Split) -> list[float]:
    """Each member's accuracy in inference mode; one without finite logits guesses, as in ``descent.accuracy``."""
    training = stack.training
    stack.eval()
    with torch.no_grad():
        found = correct(stack(data.images), data.labels)
    stack.train(training)
    return found


def both(stack: Together, data: Digits) -> dict[str, list[float]]:
    """Each member's accuracy on validation images, to choose by, and on test images, to report."""
    return {"validation": accuracies(stack, data.validation), "test": accuracies(stack, data.test)}


def correct(logits: Tensor, labels: Tensor) -> list[float]:
    """Each member's share of right answers from logits of shape (members, classes, n)."""
    right = (logits.argmax(dim=1) == labels).double().mean(dim=1)
    finite = torch.isfinite(logits).flatten(1).all(dim=1)
    return torch.where(finite, right, torch.full_like(right, 1 / CLASSES)).tolist()
