"""The plain average over a middle window of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from normwise.errors import NormwiseError
from normwise.estimators.estimator import Estimator, RunningStatistics, averaged
from normwise.moments import Moments, where


@final
@dataclass(frozen=True)
class Window(Estimator):
    r"""The average over the batches from ``start`` to ``stop``, which drops the early and the late ones.

    .. math:: \mu = \frac{1}{|W|} \sum_{j \in W} \mu_{B_j}, \quad
        \sigma^2 = \frac{1}{|W|} \sum_{j \in W} \tfrac{n_j}{n_j - 1} v_{B_j}, \quad W = \{start, \dots, stop - 1\}

    Batches are counted from 0. Until the window opens the statistics are the average of all batches so far, so that
    an evaluation in between has something to use; the batch that opens it replaces them; after it nothing changes.

    Assumes:
        Training goes on for at least ``stop`` batches, and the weights of the window are as good as the final ones.

    Bias:
        Towards the weights of the window: the later layers and the late, finest weights are not in it. The variance
        between batches is lost.

    Args:
        start: the first batch that counts, 0 or more.
        stop: the first batch after the window, more than ``start``.

    Raises:
        NormwiseError: the bounds are not ``0 <= start < stop``.

    References:
        Taught widely; no primary source was found. Wu and Johnson 2021 argue against it: statistics belong to one
        fixed network.

    Example:
        >>> from normwise.estimators import RunningStatistics, Window
        >>> from normwise.moments import Moments
        >>> statistics = RunningStatistics.start(1)
        >>> for mean in (50.0, 1.0, 3.0, 90.0):
        ...     statistics = Window(start=1, stop=3).update(statistics, Moments(mean, 0.5, 2))
        >>> statistics.mean
        array([2.])
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        """Refuse bounds that hold no batch."""
        if not 0 <= self.start < self.stop:
            raise NormwiseError(
                f"a window needs 0 <= start < stop, received start={self.start} and stop={self.stop}: "
                "state both as numbers of batches, counted from 0."
            )

    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch."""
        batches = statistics.updates + 1
        since_start = batches - (batches > self.start) * self.start
        return averaged(statistics, batch, where(batches > self.stop, 0.0, 1 / since_start))
