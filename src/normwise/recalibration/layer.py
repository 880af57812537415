"""What a framework says about one of its batch norms, so that its statistics can be estimated from data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from normwise.estimators import RunningStatistics
from normwise.moments import Moments

Array = Any  # NumPy's or a framework's, in float64
Hear = Callable[[Moments, float], None]
"""Takes the moments of what a layer is called with, and how many values of a channel one sample has."""


class Layer(Protocol):
    """A batch norm that keeps running statistics, in any framework.

    A mean and a variance are float64 here, one number per channel, and the variance is unbiased.
    """

    @property
    def name(self) -> str:
        """Of the layer in the model."""

    @property
    def eps(self) -> float:
        """The layer's."""

    def read(self) -> tuple[Array, Array]:
        """Copies of the mean and the variance that the layer has."""

    def fresh(self) -> tuple[Array, Array]:
        """Those of a layer that has seen nothing."""

    def write(self, mean: Array, var: Array) -> None:
        """Put these in the place of the layer's."""

    def writes(self, mean: Array, var: Array) -> list[Callable[[], None]]:
        """What writes these for good, if it is called; nothing is written before.

        Raises:
            NormwiseError: the layer's dtype cannot hold them.
        """

    def counter_writes(self, statistics: RunningStatistics) -> list[Callable[[], None]]:
        """What writes how much stands behind the statistics, which training has to know to carry on with them."""

    def moved(self, before: tuple[Array, Array], after: tuple[Array, Array]) -> Array:
        """How far statistics are from others, shape (C,), in standard deviations of the others."""

    def way_back(self) -> Callable[[], None]:
        """What gives the layer back the mean and the variance that it has now, byte for byte."""

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Let ``hear`` be told of every call of the layer, before its forward.

        A call with nothing to gather is not told of, nor one that ends in the layer's own error.

        Returns:
            what ends it.
        """
