"""Accuracies of a stack of networks by every kind of statistics that could serve at inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from normwise.lab.data.splits import Digits
from normwise.lab.networks.stack import Stack
from normwise.lab.training.stacks import accuracies, correct
from normwise.lab.training.watching import Log
from normwise.torch.models.recalibration.recalibrate import recalibrate

PARTS = {"all": (0.0, 1.0), "middle": (0.25, 0.75), "last": (0.75, 1.0)}
"""Means over a part of training, in shares of it."""


class EveryStatistics:
    """Looks at the test accuracy by each kind; the networks are left as they were.

    Args:
        stack: what trains.
        data: what it is looked at with.
        weights: of a new batch, in moving averages.
        few: images that are few.
    """

    def __init__(self, stack: Stack, data: Digits, *, weights: Sequence[float], few: int) -> None:
        self.stack, self.data, self.weights = stack, data, weights
        self.images = {"few": data.train.images[:few], "exact": data.train.images}
        self.logs = [Log(layer) for layer in stack.normalize]
        self.found: dict[str, list[Any]] = {}
        """The accuracies by kind: lists over the looks, of one accuracy for each network."""

    def __call__(self, step: int) -> None:  # noqa: ARG002  # the steps are known
        """Look once."""
        with self._kept():
            for weight in self.weights:
                self._add(f"average_{weight:g}", self._by(lambda log, weight=weight: log.average(weight)))  # type: ignore[misc]
            for kind, (begin, end) in PARTS.items():
                self._add(kind, self._by(lambda log, begin=begin, end=end: log.part(begin, end)))  # type: ignore[misc]
            for kind, images in self.images.items():
                recalibrate(self.stack, [images])
                self._add(kind, accuracies(self.stack, self.data.test))
            test = self.data.test
            recalibrate(self.stack, [test.images])
            self._add("test", correct(self.stack(test.images), test.labels))

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """A context in which the statistics of the layers may change; after it they are what they were."""
        before = copy.deepcopy([dict(log.layer.named_buffers()) for log in self.logs])
        yield
        for log, buffers in zip(self.logs, before, strict=True):
            for name, value in buffers.items():
                log.layer.get_buffer(name).copy_(value)

    def _add(self, kind: str, values: list[float]) -> None:
        self.found.setdefault(kind, []).append(values)

    def _by(self, statistics: Callable[[Log], Tensor]) -> list[float]:
        for log in self.logs:
            for name, value in zip(("running_mean", "running_var"), statistics(log), strict=True):
                log.layer.get_buffer(name).copy_(value)
        return accuracies(self.stack, self.data.test)


class EpochStatistics(EveryStatistics):
    """The same for the mean over the last epoch's batches, a moving average and exact statistics.

    Args:
        stack: what trains.
        data: what it is looked at with.
        weight: of a new batch, in the moving average.
        batches: of an epoch.
    """

    def __init__(self, stack: Stack, data: Digits, *, weight: float, batches: int) -> None:
        super().__init__(stack, data, weights=(weight,), few=0)
        self.batches = batches

    def __call__(self, step: int) -> None:  # noqa: ARG002  # the steps are known
        """Look once."""
        (weight,) = self.weights
        with self._kept():
            self._add("average", self._by(lambda log: log.average(weight)))
            self._add("epoch", self._by(lambda log: log.last(self.batches)))
            recalibrate(self.stack, [self.images["exact"]])
            self._add("exact", accuracies(self.stack, self.data.test))
