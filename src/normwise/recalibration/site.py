"""One batch norm of a model, in any framework, and the statistics of what comes into it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from normwise.estimators import Estimator, RunningStatistics
from normwise.estimators.pooled import Pooled
from normwise.moments import Moments, isfinite, where
from normwise.recalibration.layer import Layer
from normwise.recalibration.prior import held
from normwise.recalibration.standard_error import StandardError

Array = Any  # NumPy's or PyTorch's, in float64


class Gathered(NamedTuple):
    """The statistics that one process gathered in one layer, and their circumstances."""

    statistics: RunningStatistics
    samples: Array
    not_finite: int
    place: float
    after: frozenset[str]
    once: bool


class Site:
    """One layer, and the statistics of what comes into it.

    Args:
        layer: a batch norm that keeps running statistics.
        estimator: how its batches become statistics.

    Attributes:
        before: the mean and variance that the layer had.
        statistics: those of what was gathered.
        samples: how many samples the values of each channel are of; one that is masked in part counts in part.
        place: where in the order of calls its first one was.
        after: the names of the layers that some batch passed last before it.
        once: whether no batch came to it twice.
        settled: whether its statistics are what it normalizes by.
    """

    def __init__(self, layer: Layer, estimator: Estimator) -> None:
        self.layer, self.estimator = layer, estimator
        self.before = _pair(layer.read())
        self.settled, self.once, self.place = False, True, math.inf
        self.after = frozenset[str]()
        self.begin()

    @property
    def name(self) -> str:
        """The name of the layer in the model."""
        return self.layer.name

    @property
    def not_finite(self) -> int:
        """The number of calls in which a channel was not finite."""
        return int(self._left_out)

    @property
    def reached(self) -> bool:
        """True where there are statistics: of two values in some channel, at least."""
        return bool(self._known().any())

    @property
    def called(self) -> bool:
        """True where a batch came to the layer, though one value per channel gives no statistics."""
        return self.place < math.inf

    def begin(self, *, watched: bool = False) -> None:
        """Forget what was gathered; keep the standard error from now on, which costs some time, or not."""
        mean, var = _pair(self.layer.fresh())
        zeros = mean * 0.0
        self.statistics = RunningStatistics(mean, var, zeros, zeros)
        self.samples = zeros
        self._left_out: Any = 0  # a tensor later, so that nothing waits for the device
        self._calls: list[Moments] = []
        self._standard_error = StandardError() if watched else None

    def take(self, batch: Moments, values_per_sample: float = 1) -> None:
        """Add the moments of one call to the statistics, but for channels that are not finite."""
        with np.errstate(all="ignore"):  # as tensors do, which say nothing of what becomes too large
            clean, finite = of_finite_channels(_in_numpy(batch))
            self.statistics = self.estimator.update(self.statistics, clean)
            self.samples = self.samples + clean.count / values_per_sample
        self._left_out = self._left_out + ~finite.all()
        self._calls.append(clean)

    def end_of_batch(self) -> None:
        """Count the calls since the last batch as one observation, whatever they have in common."""
        self.once &= len(self._calls) < 2
        if self._standard_error is not None and self._calls:
            self._standard_error.add(reduce(Moments.merge, self._calls))
        self._calls = []

    def error(self) -> float:
        """The standard error of all but a few channels, in standard deviations; NaN where it was not kept."""
        if self._standard_error is None or self._standard_error.batches == 0:
            return math.nan
        return self._standard_error.typical(self.statistics.var, self.layer.eps)

    def gathered(self) -> Gathered:
        """Everything that this process gathered."""
        return Gathered(self.statistics, self.samples, self.not_finite, self.place, self.after, self.once)

    def take_over(self, gathered: Gathered) -> None:
        """Put what all processes gathered in the place of what this one did."""
        statistics = RunningStatistics(*(in_numpy(part) for part in vars(gathered.statistics).values()))
        self.statistics, self.samples = statistics, in_numpy(gathered.samples)
        self._left_out, self.once = gathered.not_finite, gathered.once
        self.place, self.after = gathered.place, gathered.after

    def set_back(self, gathered: Gathered) -> None:
        """Know again what was known then; the layer is not settled."""
        self.settled = False
        self.take_over(gathered)
        self._calls = []

    def estimate(self) -> tuple[Array, Array]:
        """Mean and unbiased variance; of a channel that nothing is known about, those that it had."""
        known, (mean, var) = self._known(), self.before
        return where(known, self.statistics.mean, mean), where(known, self.statistics.var, var)

    def settle(self) -> None:
        """Let the layer normalize by what was gathered, from now on."""
        self.settled = True
        self.layer.write(*self.estimate())

    def normalize_by(self, batch: Moments) -> None:
        """Let the layer normalize by a batch; where that has one value, by what was gathered before it."""
        batch, (mean, var) = _in_numpy(batch), self.estimate()
        several = batch.count > 1
        self.layer.write(where(several, batch.mean, mean), where(several, batch.var, var))

    def moved(self) -> Array:
        """The distance of the statistics from those before, per channel; infinite where these were not finite."""
        far = in_numpy(self.layer.moved(self.before, self.estimate()))
        return where(isfinite(far), far, math.inf)

    def writes(self) -> list[Callable[[], None]]:
        """Functions that write the result into the layer.

        Raises:
            NormwiseError: the layer's dtype cannot hold it.
        """
        return [*self.layer.writes(*self.estimate()), *self.layer.counter_writes(self.statistics)]

    def _known(self) -> Array:
        return (self.statistics.count > 1) & (self.statistics.updates > 0)


class SiteWithPrior(Site):
    """A layer whose current statistics have the weight of a number of samples.

    Args:
        layer: a batch norm that keeps running statistics.
        prior: how many samples the statistics that it has are worth.
    """

    def __init__(self, layer: Layer, prior: float) -> None:
        self.prior = prior
        super().__init__(layer, Pooled())

    def estimate(self) -> tuple[Array, Array]:
        """Mean and variance of source and target together."""
        now = self.statistics
        seen = Moments.from_unbiased_var(now.mean, now.var, now.count)
        with np.errstate(all="ignore"):  # a source that is not finite counts for nothing
            return held(self.before, self.prior, seen, self.samples)

    def writes(self) -> list[Callable[[], None]]:
        """Mean and variance alone: how many batches a layer was trained with is as it was."""
        return self.layer.writes(*self.estimate())

    def _known(self) -> Array:
        enough = self.statistics.count > 1
        if self.prior > 0:  # one value has a mean, and its spread is the prior's
            enough |= isfinite(self.before[0]) & isfinite(self.before[1]) & (self.statistics.count > 0)
        return enough & (self.statistics.updates > 0)


def in_numpy(array: Array) -> Array:
    """An array of the host's as NumPy's, without a copy; one on another device as it is.

    What is done to a few numbers per channel costs a fifth in NumPy of what it costs in PyTorch, whose operations are
    made for large tensors; the results are the same, bit for bit.

    Example:
        >>> in_numpy(np.ones(2))
        array([1., 1.])
    """
    return array.numpy() if getattr(array, "is_cpu", False) else array


def _pair(arrays: tuple[Array, Array]) -> tuple[Array, Array]:
    return in_numpy(arrays[0]), in_numpy(arrays[1])


def _in_numpy(batch: Moments) -> Moments:
    return Moments(in_numpy(batch.mean), in_numpy(batch.var), in_numpy(batch.count))


def of_finite_channels(batch: Moments) -> tuple[Moments, Array]:
    """The moments of a batch with nothing in channels that are not finite, and which are.

    Example:
        >>> of_finite_channels(Moments(np.array([1.0, np.nan]), np.ones(2), np.array([8.0, 8.0])))[0].count
        array([8., 0.])
    """
    finite = isfinite(batch.mean) & isfinite(batch.var)
    return Moments(where(finite, batch.mean, 0.0), where(finite, batch.var, 0.0), batch.count * finite), finite
