"""The signals that each layer of a dense network receives while it trains, and the rate that would suit each layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import Split
from normwise.lab.intervals import Numbers
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.stack import Stack
from normwise.lab.training import stacks
from normwise.lab.training.looking import over_time, spread_over_time

LEAST = 1e-30
"""The norm of a gradient that is none, or less."""
RATES = tuple(2.0**power for power in range(-14, 21))


class Received:
    """Looks at the mean and the standard deviation of what each unit's activation receives, layer by layer.

    Args:
        model: what trains.
        data: images that it is looked at with, in inference mode.
    """

    def __init__(self, model: Dense, data: Split) -> None:
        self.model, self.data = model, data
        self.at: list[int] = []
        self.means: list[np.ndarray] = []
        self.deviations: list[np.ndarray] = []

    def __call__(self, step: int) -> None:
        """Look once."""
        received = _received(self.model, self.data.images)
        self.at.append(step)
        self.means.append(received.mean(dim=1).numpy())
        self.deviations.append(received.std(dim=1).numpy())

    def drift(self) -> list[float]:
        """The drift of each layer: the median over units of the mean's spread over time, over the mean deviation."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # diverged networks, and dead units
            moved = spread_over_time(np.array(self.means), self.at, axis=0)
            drift = moved / over_time(np.array(self.deviations), self.at, axis=0)
            return [float(each) for each in np.median(drift, axis=1)]

    def sizes(self) -> list[float]:
        """The size of the signals of each layer: the mean over units of the standard deviation, at the last look."""
        return [float(each) for each in self.deviations[-1].mean(axis=1)]


def sizes(model: Dense, images: Tensor) -> list[float]:
    """The mean over each layer's units of the standard deviation of what activations receive, by batch statistics."""
    twin = copy.deepcopy(model).train()
    with torch.no_grad():
        return [float(each) for each in _received(twin, images).std(dim=1).mean(dim=1)]


def best_rates(model: Dense, images: Tensor, labels: Tensor, rates: Sequence[float] = RATES) -> list[float]:
    """The rate of each hidden layer at which a step of that layer alone lowers the loss of the batch; see ``lowest``.

    Args:
        model: stays as it is.
        images: shape (n, pixels); the batch's statistics are used.
        labels: shape (n,).
        rates: that are tried.
    """
    twin = copy.deepcopy(model).train()
    weights = [layer.weight for layer in twin.linear if isinstance(layer, nn.Linear)]
    start = cross_entropy(twin(images), labels)
    gradients = torch.autograd.grad(start, weights)
    found = []
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            before, losses = weight.clone(), []
            for rate in rates:
                weight.copy_(before - rate * gradient)
                loss = float(cross_entropy(twin(images), labels))
                losses.append(loss if math.isfinite(loss) else math.inf)
            weight.copy_(before)
            found.append(rates[lowest(np.array(losses), start.item())])
    return found


def log_norms(stack: Stack, images: Tensor, labels: Tensor) -> list[list[float]]:
    """Log10 of the norm of the loss's gradient by each hidden layer's weights, of each member, from the input upwards.

    Args:
        stack: stays as it is; batch statistics are used.
        images: shape (n, pixels).
        labels: shape (n,).
    """
    twin = copy.deepcopy(stack).train()
    with torch.enable_grad():  # a look at a training comes without
        hidden = list(twin.weights)[: twin.depth]
        gradients = torch.autograd.grad(stacks.losses(twin(images), labels).sum(), hidden)
    norms = torch.stack([each.flatten(1).double().norm(dim=1) for each in gradients], dim=1)
    logs: list[list[float]] = norms.clamp(min=LEAST).log10().tolist()
    return logs


def lowest(losses: Numbers, start: float) -> int:
    """The place of the first loss that is no higher than its neighbours and at least half as far down as the lowest.

    With batch normalization the loss stands still for ever longer steps, now and then lower than anywhere else; the
    lowest one would then lie wherever the steps that are tried end.

    Args:
        losses: by the length of the step, the shortest first.
        start: the loss before it.

    Example:
        >>> import numpy as np
        >>> lowest(np.array([2.0, 1.0, 1.5, 0.9, 0.9]), 3.0), lowest(np.array([2.9, 2.95, 1.5, 0.9, 1.0]), 3.0)
        (1, 3)
    """
    around = np.concatenate(([np.inf], losses, [np.inf]))
    valley = (losses <= around[:-2]) & (losses <= around[2:]) & (start - losses >= (start - losses.min()) / 2)
    return int(np.argmax(valley))


def unevenness(rates: Numbers) -> Numbers:
    """The largest rate over the smallest one: shape (..., layers) to (...)."""
    return np.asarray(rates.max(axis=-1) / rates.min(axis=-1))


def _received(model: Dense, images: Tensor) -> Tensor:
    """The signals that the activations receive: shape (layers, images, units)."""
    received: list[Tensor] = []
    hooks = [each.register_forward_hook(lambda *seen: received.append(seen[-1])) for each in model.normalize]
    model(images)
    for hook in hooks:
        hook.remove()
    return torch.stack(received)
