"""A batch norm of any framework, as its framework describes it to ``recalibrate`` and ``adapt``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from normwise.estimators import RunningStatistics
from normwise.moments import Moments

Array = Any  # NumPy's or a framework's, in float64
Hear = Callable[[Moments, float], None]
"""A function of the moments of a layer's input, and of the number of values of a channel in one sample."""


class Layer(Protocol):
    """A batch norm that keeps running statistics, in any framework.

    A mean and a variance are float64 here, one number per channel, and the variance is unbiased.
    """

    @property
    def name(self) -> str:
        """The name of the layer in the model."""

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
        """Functions that write these for good; nothing is written before they are called.

        Raises:
            NormwiseError: the layer's dtype cannot hold them.
        """

    def counter_writes(self, statistics: RunningStatistics) -> list[Callable[[], None]]:
        """Functions that write how much stands behind the statistics, which training needs to carry on with them."""

    def moved(self, before: tuple[Array, Array], after: tuple[Array, Array]) -> Array:
        """The distance of statistics from those before, shape (C,), in standard deviations of those after."""

    def restorer(self) -> Callable[[], None]:
        """A function that gives the layer the mean and the variance that it has now, byte for byte."""

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Call ``hear`` before every forward of the layer; not where there is nothing to gather, or an error to come.

        Returns:
            a function that ends this.
        """
