"""Exponential moving average: what PyTorch and Keras do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from normwise.estimators.estimator import Estimator, RunningStatistics, averaged, weight_of_window
from normwise.moments import Moments


@final
@dataclass(frozen=True)
class Ema(Estimator):
    r"""The exponential moving average of the batch means and of the batches' unbiased variances.

    .. math:: \mu_k = (1 - w) \mu_{k-1} + w \mu_{B_k}, \quad
        \sigma^2_k = (1 - w) \sigma^2_{k-1} + w \tfrac{n}{n-1} v_{B_k}

    Assumes:
        Consecutive batches are drawn alike, and the network moves slowly against the window of about
        :math:`(2 - w) / w` batches (19 for w = 0.1).

    Bias:
        Towards the start (mean 0, variance 1) by :math:`(1 - w)^k` after k batches: 37 % are left after 100 batches
        at w = 0.01. Towards old weights while the network moves. The variance between batches is lost: a sorted
        stream gives too small a variance.

    Args:
        weight_of_new: :math:`w`, the weight of a new batch. PyTorch calls it momentum; Keras's momentum is 1 - w.

    References:
        Ioffe and Szegedy 2015, section 3.1.

    Example:
        >>> from normwise.estimators import Ema, RunningStatistics
        >>> from normwise.moments import Moments
        >>> start = RunningStatistics.start(1)
        >>> Ema(weight_of_new=0.1).update(start, Moments(10.0, 0.5, 2)).mean
        array([1.])
    """

    weight_of_new: float

    @classmethod
    def over(cls, batches: float) -> Ema:
        """The average over an effective number of batches, 1 or more; see ``weight_of_window``.

        Example:
            >>> from normwise.estimators import Ema
            >>> Ema.over(19)
            Ema(weight_of_new=0.1)
        """
        return cls(weight_of_window(batches))

    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch."""
        return averaged(statistics, batch, self.weight_of_new)
