"""The roughness of the loss around the weights of a stack of networks: probes that leave the networks as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from normwise.lab.networks.stack import Stack
from normwise.lab.training.stacks import losses

PROBES = (0.5, 1.0, 2.0, 3.0, 4.0)
"""Steps along the gradient, in units of the rate."""


def gradients_of(stack: Stack, images: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Losses of the members, and the gradients of all parameters."""
    loss = losses(stack(images), labels)
    return loss.detach(), list(torch.autograd.grad(loss.sum(), list(stack.parameters())))


def _moved(stack: Stack, gradients: list[Tensor], rates: Tensor, which: Sequence[bool] | None = None) -> Stack:
    """A copy in training mode, those of its parameters one step further, each member by its own rate."""
    moved = copy.deepcopy(stack).train()
    with torch.no_grad():
        for i, (parameter, gradient) in enumerate(zip(moved.parameters(), gradients, strict=True)):
            if which is None or which[i]:
                flat = parameter.view(stack.members, -1)
                flat.addcmul_(gradient.reshape(stack.members, -1), rates.view(-1, 1), value=-1)
    return moved


def _flat(stack: Stack, gradients: list[Tensor]) -> Tensor:
    return torch.cat([gradient.reshape(stack.members, -1) for gradient in gradients], dim=1)


def along_the_gradient(stack: Stack, images: Tensor, labels: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Range of the loss over the probes, and largest distance of the gradient there: two of shape (members,)."""
    start = _moved(stack, [torch.zeros_like(parameter) for parameter in stack.parameters()], rates)
    first, gradients = gradients_of(start, images, labels)
    found, distances = [first], []
    for probe in PROBES:
        loss, there = gradients_of(_moved(stack, gradients, probe * rates), images, labels)
        found.append(loss)
        distances.append((_flat(stack, there) - _flat(stack, gradients)).norm(dim=1))
    every = torch.stack(found)
    return every.max(dim=0).values - every.min(dim=0).values, torch.stack(distances).max(dim=0).values


def cosine_after_the_layers_below(stack: Stack, images: Tensor, labels: Tensor, rates: Tensor) -> Tensor:
    """Mean over layers of the cosine of a weight's gradient before and after the layers below moved: (members,).

    Definition 2.1 of Santurkar et al.: the same batch, the layers below at the next step, the others where they were.
    """
    _, gradients = gradients_of(_moved(stack, [torch.zeros_like(p) for p in stack.parameters()], rates), images, labels)
    names = [name for name, _ in stack.named_parameters()]
    cosines = []
    for layer in range(1, stack.depth + 1):
        below = [layer_of(name, stack.depth, len(stack.biases) == 1) < layer for name in names]
        _, there = gradients_of(_moved(stack, gradients, rates, below), images, labels)
        at = names.index(f"weights.{layer}")
        cosines.append(torch.cosine_similarity(gradients[at].flatten(1), there[at].flatten(1), dim=1))
    return torch.stack(cosines).mean(dim=0)


class Roughness:
    """Looks at the landscape around a stack that trains.

    Args:
        stack: what trains.
        source: of the batches that it is looked at with.
        rates: one per member.
    """

    def __init__(self, stack: Stack, source: Iterator[tuple[Tensor, Tensor]], rates: Sequence[float]) -> None:
        self.stack, self.source, self.rates = stack, source, torch.tensor(rates)
        self.seen: dict[str, list[list[float]]] = {"range": [], "distance": [], "cosine": []}
        """Lists over the looks, of one number for each member."""

    def __call__(self, step: int) -> None:  # noqa: ARG002  # the steps are known
        """Look once."""
        images, labels = next(self.source)
        with torch.enable_grad():
            spread, distance = along_the_gradient(self.stack, images, labels, self.rates)
            cosine = cosine_after_the_layers_below(self.stack, images, labels, self.rates)
        for name, values in (("range", spread), ("distance", distance), ("cosine", cosine)):
            self.seen[name].append(values.tolist())


def layer_of(name: str, depth: int, only_readout_biased: bool) -> int:
    """The number of the layer that a parameter of a stack belongs to; the readout is ``depth``."""
    kind, number = name.split(".")[:2]  # with a normalization only the readout has a bias, and that is number 0
    return depth if kind == "biases" and only_readout_biased else int(number)
