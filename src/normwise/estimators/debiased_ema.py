"""Exponential moving average without the pull towards its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from normwise.estimators.estimator import Estimator, RunningStatistics, averaged, weight_of_window
from normwise.moments import Moments


@final
@dataclass(frozen=True)
class DebiasedEma(Estimator):
    r"""The exponential moving average divided by the weight that it has seen, as Adam does for its moments.

    .. math:: \mu_k = \frac{\sum_{j \le k} (1 - w)^{k - j} \mu_{B_j}}{\sum_{j \le k} (1 - w)^{k - j}},
        \quad\text{computed as an average with}\quad w_k = \frac{w}{1 - (1 - w)^k}

    Written with :math:`w_k` the stored statistics are at every moment the ones to be used, and nothing but the number
    of batches has to be remembered. The variances are averaged alike, each unbiased.

    Assumes:
        Consecutive batches are drawn alike, and the network moves slowly against the window.

    Bias:
        None from the start: after one batch it is that batch. Towards old weights while the network moves. The
        variance between batches is lost.

    Args:
        weight_of_new: :math:`w`, the weight of a new batch once many were seen.

    References:
        Kingma and Ba, Adam: a method for stochastic optimization, 2015, section 3 (the correction).

    Example:
        >>> from normwise.estimators import DebiasedEma, RunningStatistics
        >>> from normwise.moments import Moments
        >>> start = RunningStatistics.start(1)
        >>> DebiasedEma(weight_of_new=0.1).update(start, Moments(10.0, 0.5, 2)).mean
        array([10.])
    """

    weight_of_new: float

    @classmethod
    def over(cls, batches: float) -> DebiasedEma:
        """The average over an effective number of batches, 1 or more; see ``weight_of_window``.

        Example:
            >>> from normwise.estimators import DebiasedEma
            >>> DebiasedEma.over(19)
            DebiasedEma(weight_of_new=0.1)
        """
        return cls(weight_of_window(batches))

    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch."""
        seen = 1 - (1 - self.weight_of_new) ** (statistics.updates + 1)
        return averaged(statistics, batch, self.weight_of_new / seen)
