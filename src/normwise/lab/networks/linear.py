"""Deep linear networks side by side, and how their gradients turn and their losses vary while they train."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from normwise.lab.networks.dense import glorot
from normwise.torch import BatchNorm1d

PROBES = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0)
"""The steps along the gradient, in multiples of the rate: the span of Santurkar et al. 2018 for such networks."""


class Linear(nn.Module):
    """``members`` linear networks side by side that begin alike, each of square layers and nothing between them.

    ``layers`` holds, from below, each layer's parameters: weights of shape (members, width, width), and behind every
    layer but the last scale and shift of its batch normalization, where it has one.

    Args:
        members: how many networks.
        depth: how many layers.
        width: numbers in, between and out.
        batch_norm: whether every layer but the last is normalized.
        seed: of the initial weights, which are of variance 1 / width and the same with and without a normalization.
    """

    def __init__(self, members: int, *, depth: int, width: int, batch_norm: bool, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(depth, width, width, generator=generator, dtype=torch.float64) * glorot(width)
        self.weights = nn.ParameterList(nn.Parameter(weight.repeat(members, 1, 1)) for weight in drawn)
        self.normalize = nn.ModuleList(
            BatchNorm1d(members * width, dtype=torch.float64) if batch_norm and i < depth - 1 else nn.Identity()
            for i in range(depth)
        )
        self.layers = [
            [weight, *normalize.parameters()] for weight, normalize in zip(self.weights, self.normalize, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Shape (width, n) to (members, width, n)."""
        y = x.expand(len(self.weights[0]), *x.shape)
        for weight, normalize in zip(self.weights, self.normalize, strict=True):
            y = torch.bmm(weight, y)
            y = normalize(y.reshape(1, -1, y.shape[2])).view(y.shape)
        return y


def losses(model: Linear, x: Tensor, y: Tensor) -> Tensor:
    """Each member's mean squared distance from y, over the mean square of y, in training mode."""
    distances: Tensor = (model(x) - y).square().sum(dim=1).mean(dim=1)
    return distances / y.square().sum(dim=0).mean()


def gradients_of(model: Linear, x: Tensor, y: Tensor) -> list[list[Tensor]]:
    """The gradients of every parameter of every layer."""
    flat = torch.autograd.grad(losses(model, x, y).sum(), [each for layer in model.layers for each in layer])
    left = iter(flat)
    return [[next(left) for _ in layer] for layer in model.layers]


def move(layer: list[nn.Parameter], slopes: list[Tensor], rates: Tensor) -> None:
    """One step of every member at its own rate."""
    with torch.no_grad():
        for parameter, slope in zip(layer, slopes, strict=True):
            parameter.view(len(rates), -1).addcmul_(slope.reshape(len(rates), -1), rates.view(-1, 1), value=-1)


def range_along(model: Linear, gradients: list[list[Tensor]], rates: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Largest minus smallest loss of each member along its gradient; leaves the model as it was."""
    before = [each.detach().clone() for layer in model.layers for each in layer]
    along = []
    for times in PROBES:
        for layer, slopes in zip(model.layers, gradients, strict=True):
            move(layer, slopes, times * rates)
        with torch.no_grad():
            along.append(losses(model, x, y))
        _restore(model, before)
    seen = torch.stack(along)
    return seen.amax(dim=0) - seen.amin(dim=0)


def turns(model: Linear, gradients: list[list[Tensor]], rates: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The change of the gradients of weights when the layers below take their step; leaves the model as it was.

    Returns:
        For each member the mean over all layers but the first of the cosine between the two gradients, and of their
        distance over the size of the former; shape (members,) both.
    """
    before = [each.detach().clone() for layer in model.layers for each in layer]
    cosines, distances = [], []
    for i in range(1, len(model.layers)):
        move(model.layers[i - 1], gradients[i - 1], rates)
        (slope,) = torch.autograd.grad(losses(model, x, y).sum(), [model.layers[i][0]])
        old, new = gradients[i][0].flatten(1), slope.flatten(1)
        cosines.append(torch.cosine_similarity(old, new, dim=1, eps=0.0))
        distances.append((new - old).norm(dim=1) / old.norm(dim=1))
    _restore(model, before)
    return torch.stack(cosines).mean(dim=0), torch.stack(distances).mean(dim=0)


def _restore(model: Linear, values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip((each for layer in model.layers for each in layer), values, strict=True):
            parameter.copy_(value)


def descend(
    model: Linear, x: Tensor, y: Tensor, rates: Sequence[float], steps: int, look_at: Collection[int]
) -> dict[str, list[list[float]]]:
    """Gradient descent on all points at once, every member at its own rate, and what is seen on the way.

    Args:
        model: is changed in place.
        x: the inputs, shape (width, n).
        y: what they are to become, of the same shape.
        rates: one per member.
        steps: how many steps.
        look_at: before which steps.

    Returns:
        Lists of shape (members, looks): ``loss``; ``range`` of the loss along the gradient, over the loss; ``cosine``
        and ``distance`` of a layer's gradient before and after the layers below take their step.
    """
    each = torch.tensor(rates, dtype=torch.float64)
    found: dict[str, list[Tensor]] = {"loss": [], "cosine": [], "distance": [], "range": []}
    for step in range(1, steps + 1):
        gradients = gradients_of(model, x, y)
        if step in look_at:
            here = losses(model, x, y).detach()
            found["range"].append(range_along(model, gradients, each, x, y) / here)
            cosine, distance = turns(model, gradients, each, x, y)
            found["cosine"].append(cosine)
            found["distance"].append(distance)
            found["loss"].append(here)
        for layer, slopes in zip(model.layers, gradients, strict=True):
            move(layer, slopes, each)
    return {name: torch.stack(values, dim=1).tolist() for name, values in found.items()}
