"""The exact moments of every value seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from normwise.estimators.estimator import Estimator, RunningStatistics
from normwise.moments import Moments, where


@final
@dataclass(frozen=True)
class Pooled(Estimator):
    r"""The mean and the unbiased variance of all values of all batches, as if they had been one batch.

    .. math:: \mu = \frac1N \sum_j n_j \mu_{B_j}, \quad
        \sigma^2 = \frac{1}{N - 1} \Big( \sum_j n_j v_{B_j} + \sum_j n_j (\mu_{B_j} - \mu)^2 \Big), \quad N = \sum_j n_j

    Assumes:
        One fixed network. Nothing of the order or the sizes of the batches.

    Bias:
        None for a fixed network, in any order and with ragged batches. While a network trains, towards its early
        weights, which are most of what was seen.

    References:
        Chan, Golub and LeVeque 1979 (merging); Wu and Johnson, Rethinking "batch" in batch normalization, 2021
        (why the variance between batches belongs to it).

    Example:
        >>> from normwise.estimators import Pooled, RunningStatistics
        >>> from normwise.moments import Moments
        >>> statistics = RunningStatistics.start(1)
        >>> for batch in (Moments(1.0, 0.0, 2), Moments(4.0, 0.0, 1)):
        ...     statistics = Pooled().update(statistics, batch)
        >>> statistics.mean, statistics.var
        (array([2.]), array([3.]))
    """

    needs_count: ClassVar[bool] = True

    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch; a batch of one value counts too, once there is another value."""
        # Before the first value the stored variance 1 is only a placeholder; count 0 gives it no weight.
        seen = Moments.from_unbiased_var(statistics.mean, statistics.var, statistics.count).merge(batch)
        grows = batch.count > 0
        return RunningStatistics(
            where(grows, seen.mean, statistics.mean),
            where(grows & (seen.count > 1), seen.unbiased_var(), statistics.var),
            statistics.updates + grows,
            seen.count,
        )
