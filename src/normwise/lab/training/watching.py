"""Measurements while a stack trains: accuracies, and the drift of what its last hidden activations receive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normwise.lab.data.splits import CLASSES, Digits
from normwise.lab.intervals import Numbers
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.stack import Stack
from normwise.lab.training.descent import accuracy
from normwise.lab.training.looking import over_time, spread_over_time
from normwise.lab.training.stacks import accuracies


class Curves:
    """Looks at the accuracies of a stack, to be passed to ``train_stack``.

    Args:
        stack: what trains.
        data: the accuracies are of its validation and its test images.
    """

    def __init__(self, stack: Stack, data: Digits) -> None:
        self.stack, self.data = stack, data
        self.validation: list[list[float]] = []
        self.test: list[list[float]] = []

    def __call__(self, step: int) -> None:  # noqa: ARG002  # the steps are known
        """Look once."""
        self.validation.append(accuracies(self.stack, self.data.validation))
        self.test.append(accuracies(self.stack, self.data.test))

    def found(self) -> dict[str, Any]:
        """Accuracies of shape (members, looks)."""
        return {
            "validation": np.transpose(self.validation).tolist(),
            "test": np.transpose(self.test).tolist(),
        }


class Watch(Curves):
    """The same, and the drift of what the last hidden activations receive from the validation images.

    Args:
        stack: what trains.
        data: what it is looked at with.
        while_received: entered while the last hidden activations receive what their drift is measured by.
    """

    def __init__(
        self, stack: Stack, data: Digits, while_received: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        super().__init__(stack, data)
        self.at: list[int] = []
        self.while_received = while_received
        self.means: list[np.ndarray] = []
        self.deviations: list[np.ndarray] = []

    def __call__(self, step: int) -> None:
        """Look once."""
        super().__call__(step)
        self.at.append(step)
        received: list[Tensor] = []
        hook = self.stack.normalize[-1].register_forward_hook(lambda *found: received.append(found[-1][0]))
        with self.while_received():
            accuracies(self.stack, self.data.validation)
        hook.remove()
        values = received.pop()
        values = values.view(self.stack.members, -1, values.shape[-1])
        self.means.append(values.mean(dim=2).numpy())
        self.deviations.append(values.std(dim=2).numpy())

    def found(self) -> dict[str, Any]:
        """Accuracies of shape (members, looks), and for each member the median drift of its units.

        The drift of a unit is the standard deviation over time of the mean that its activation receives, over its mean
        standard deviation; NaN where the member diverged.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # diverged members
            means, deviations = np.array(self.means), np.array(self.deviations)
            drift = spread_over_time(means, self.at, axis=0) / over_time(deviations, self.at, axis=0)
        return super().found() | {"drift": np.median(drift, axis=1).astype(float).tolist()}


PERCENTILES = (15, 50, 85)


class Inputs:
    """Looks at the accuracies of one network, and at what its last hidden activations receive.

    Args:
        model: what trains.
        data: what it is looked at with.
    """

    def __init__(self, model: Dense, data: Digits) -> None:
        self.model, self.data = model, data
        self.validation: list[float] = []
        self.test: list[float] = []
        self.percentiles: list[np.ndarray] = []
        self.at: list[int] = []

    def __call__(self, step: int) -> None:
        """Look once."""
        self.at.append(step)
        received: list[Tensor] = []
        hook = self.model.normalize[-1].register_forward_hook(lambda *seen: received.append(seen[-1]))
        self.validation.append(accuracy(self.model, self.data.validation))
        hook.remove()
        self.test.append(accuracy(self.model, self.data.test))
        self.percentiles.append(np.percentile(received.pop().numpy(), PERCENTILES, axis=0))

    def found(self, looks: int) -> dict[str, Any]:
        """Accuracies at so many looks, those after it diverged being guesses; and the drift of the inputs.

        The drift of a unit is the range of the median of its input, by the mean distance of the outer percentiles over
        time; ``drift`` is the median over the units, NaN where the network diverged, and ``typical`` the percentiles of
        the unit that has it.
        """
        guessing = [1 / CLASSES] * (looks - len(self.test))
        drift, unit = _drift(np.array(self.percentiles), self.at)
        return {
            "validation": self.validation + guessing,
            "test": self.test + guessing,
            "drift": drift,
            "typical": [moment[:, unit] for moment in self.percentiles],
        }


def _drift(percentiles: Numbers, at: Sequence[int]) -> tuple[float, int]:
    """Median drift over units, and the unit that has it; from shape (looks, 3, units)."""
    if len(percentiles) < 2 or not np.isfinite(percentiles).all():
        return float("nan"), 0
    low, middle, high = (percentiles[:, i] for i in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):  # a dead layer below: no width, hence no drift
        drifts = (middle.max(axis=0) - middle.min(axis=0)) / over_time(high - low, at, axis=0)
    typical = float(np.median(drifts))
    if not np.isfinite(typical):
        return float("nan"), 0
    return typical, int(np.argmin(np.abs(drifts - typical)))


class Sizes:
    """Looks at the norms of all hidden weights, and of all hidden biases, of one network."""

    def __init__(self, model: Dense) -> None:
        self.layers = [layer for layer in model.linear if isinstance(layer, nn.Linear)]
        self.weights: list[float] = []
        self.biases: list[float] = []

    def __call__(self, step: int) -> None:  # noqa: ARG002  # the steps are known
        """Look once."""
        self.weights.append(float(torch.stack([layer.weight.norm() for layer in self.layers]).norm()))
        self.biases.append(float(torch.stack([layer.bias.norm() for layer in self.layers]).norm()))


class Log:
    """Mean and variance, the one with m - 1, of every batch that a layer normalizes in training."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.moments: list[Tensor] = []
        layer.register_forward_pre_hook(self._take)

    def _take(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer.training:
            with torch.no_grad():
                self.moments.append(torch.stack((inputs[0].mean(dim=(0, 2)), inputs[0].var(dim=(0, 2)))))

    def average(self, weight: float) -> Tensor:
        """The moving average of all batches so far, from mean 0 and variance 1: shape (2, channels)."""
        found = torch.stack((torch.zeros_like(self.moments[0][0]), torch.ones_like(self.moments[0][0])))
        for moments in self.moments:
            found = torch.lerp(found, moments, weight)
        return found

    def part(self, begin: float, end: float) -> Tensor:
        """The mean over a part of training, in shares of the steps so far; at least one step."""
        count = len(self.moments)
        first = min(int(begin * count), count - 1)
        return torch.stack(self.moments[first : max(int(end * count), first + 1)]).mean(dim=0)

    def last(self, count: int) -> Tensor:
        """The mean over the last batches."""
        return torch.stack(self.moments[-count:]).mean(dim=0)
