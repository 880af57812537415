"""The plain average over all batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from normwise.estimators.estimator import Estimator, RunningStatistics, averaged
from normwise.moments import Moments


@final
@dataclass(frozen=True)
class Cumulative(Estimator):
    r"""The mean of the batch means and of the batches' unbiased variances, every batch weighing the same.

    .. math:: \mu_k = \frac1k \sum_{j \le k} \mu_{B_j}, \quad
        \sigma^2_k = \frac1k \sum_{j \le k} \tfrac{n_j}{n_j - 1} v_{B_j}

    It is algorithm 2 of the original paper, and what PyTorch does with ``momentum=None``.

    Assumes:
        One fixed network, batches of one size, each drawn from the whole population.

    Bias:
        A last batch of 2 weighs like a batch of 64. The variance between batches is lost, which is none for shuffled
        data and most of it for sorted data. While a network trains, towards its early weights.

    References:
        Ioffe and Szegedy 2015, algorithm 2.

    Example:
        >>> from normwise.estimators import Cumulative, RunningStatistics
        >>> from normwise.moments import Moments
        >>> statistics = RunningStatistics.start(1)
        >>> for mean in (1.0, 2.0, 6.0):
        ...     statistics = Cumulative().update(statistics, Moments(mean, 0.5, 2))
        >>> statistics.mean
        array([3.])
    """

    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch."""
        return averaged(statistics, batch, 1 / (statistics.updates + 1))
