"""A model of a framework that is NumPy alone: what a framework has to say about its layers and models, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normwise.errors import NormwiseError
from normwise.estimators import RunningStatistics
from normwise.moments import Moments
from normwise.recalibration.layer import Hear
from normwise.recalibration.one_pass import Pass
from normwise.recalibration.site import Site
from normwise.recalibration.standard_error import distance

F64 = NDArray[np.float64]


class NumpyLayer:
    """Normalizes its input by running statistics, and can be listened to.

    Args:
        name: of the layer.
        mean: to begin with, shape (C,).
        var: to begin with.
        largest: the largest number that its dtype can hold.
    """

    eps = 0.0

    def __init__(self, name: str, mean: Any, var: Any, largest: float = np.inf) -> None:
        self.name, self._largest = name, largest
        self.mean: F64 = np.array(mean, float)
        self.var: F64 = np.array(var, float)
        self.updates = 0
        self._heard_by: list[Hear] = []

    def __call__(self, x: F64) -> F64:
        for hear in [*self._heard_by]:
            hear(Moments(x.mean(0), x.var(0), np.full(x.shape[1], float(len(x)))), 1)
        y: F64 = (x - self.mean) / np.sqrt(self.var)
        return y

    def read(self) -> tuple[F64, F64]:
        return self.mean.copy(), self.var.copy()

    def fresh(self) -> tuple[F64, F64]:
        return np.zeros_like(self.mean), np.ones_like(self.mean)

    def write(self, mean: F64, var: F64) -> None:
        self.mean, self.var = mean.copy(), var.copy()

    def writes(self, mean: F64, var: F64) -> list[Callable[[], None]]:
        if abs(mean).max() > self._largest:
            raise NormwiseError(f"{self.name} cannot hold {abs(mean).max():g}.")
        return [lambda: self.write(mean, var)]

    def counter_writes(self, statistics: RunningStatistics) -> list[Callable[[], None]]:
        return [lambda: setattr(self, "updates", int(statistics.updates.max()))]

    def moved(self, before: tuple[F64, F64], after: tuple[F64, F64]) -> F64:
        with np.errstate(all="ignore"):
            far: F64 = distance(*before, *after, self.eps)
        return far

    def restorer(self) -> Callable[[], None]:
        mean, var = self.read()
        return lambda: self.write(mean, var)

    def listen(self, hear: Hear) -> Callable[[], None]:
        self._heard_by.append(hear)
        return lambda: self._heard_by.remove(hear)

    @property
    def listeners(self) -> int:
        return len(self._heard_by)


class NumpyModel:
    """Layers one after the other, with what happened in the order in which it did.

    Args:
        layers: in the order of their calls.
        to_the_end: whether no forward may end in the middle.
    """

    loader, rank = "list", 0

    def __init__(self, *layers: NumpyLayer, to_the_end: bool = False) -> None:
        self.layers, self.to_the_end = layers, to_the_end
        self.called: list[str] = []
        self.restored = 0
        self.between: Callable[[F64], F64] = lambda x: x

    @contextmanager
    def unchanged(self) -> Iterator[Callable[[], None]]:
        before = [layer.restorer() for layer in self.layers]

        def restore_random_state() -> None:
            self.restored += 1

        try:
            yield restore_random_state
        finally:
            for restore in before:
                restore()

    def forward(self, batch: F64) -> F64:
        for layer in self.layers:
            self.called.append(layer.name)
            batch = self.between(layer(batch))
        return batch

    def samples_in(self, batch: F64) -> int:
        return len(batch)

    def together(self, work: Callable[[], Pass], gathering: Sequence[Site]) -> list[Pass]:
        assert gathering
        return [work()]
