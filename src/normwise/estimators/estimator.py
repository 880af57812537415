"""The base of every estimator: a pure step from the statistics so far and a batch's moments to the next statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from normwise.errors import NormwiseError
from normwise.moments import Array, Moments, where


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """The statistics used at inference, and what is needed to carry on with them.

    Args:
        mean: shape (C,), the estimate of the population's mean.
        var: shape (C,), the estimate of the population's variance (unbiased, where the estimator can be).
        updates: how many batches entered.
        count: how many values per channel entered.
    """

    mean: Array
    var: Array
    updates: Array
    count: Array

    @classmethod
    def start(cls, channels: int) -> RunningStatistics:
        """The statistics before the first batch: mean 0, variance 1, as every framework starts.

        Example:
            >>> from normwise.estimators import RunningStatistics
            >>> RunningStatistics.start(2).var
            array([1., 1.])
        """
        return cls(np.zeros(channels), np.ones(channels), 0, 0)


class Estimator(ABC):
    """A stream of Moments in, inference statistics out.

    A member is a frozen dataclass of settings. Its docstring says what it *Assumes* of the stream and its *Bias*. It
    is written with operators only, so the same code serves NumPy arrays and tensors inside a compiled graph.
    """

    needs_count: ClassVar[bool] = False  # whether the number of values has to be kept beside mean, var and updates

    @abstractmethod
    def update(self, statistics: RunningStatistics, batch: Moments) -> RunningStatistics:
        """The statistics after one more batch.

        Args:
            statistics: what was estimated so far.
            batch: the moments of the new batch; one with fewer than two values per channel changes nothing, because
                it has no variance.
        """


def averaged(statistics: RunningStatistics, batch: Moments, weight_of_new: Array) -> RunningStatistics:
    r"""Move the statistics towards the batch's mean and unbiased variance; the step of all averaging estimators.

    .. math:: \mu \leftarrow \mu + w (\mu_B - \mu), \quad
        \sigma^2 \leftarrow \sigma^2 + w (\tfrac{n}{n-1} v_B - \sigma^2)

    Args:
        statistics: what was estimated so far.
        batch: the new batch.
        weight_of_new: :math:`w`, between 0 (ignore the batch) and 1 (forget everything else).
    """
    enough = batch.count > 1
    return RunningStatistics(
        where(enough, statistics.mean + weight_of_new * (batch.mean - statistics.mean), statistics.mean),
        where(enough, statistics.var + weight_of_new * (batch.unbiased_var() - statistics.var), statistics.var),
        statistics.updates + enough,
        statistics.count + enough * batch.count,
    )


def weight_of_window(batches: float) -> float:
    r"""The weight of a new batch with which an exponential average is as noisy as the plain one of so many batches.

    .. math:: w = \frac{2}{n + 1}, \quad n = \frac{2 - w}{w}

    The one unit in which PyTorch and Keras agree: PyTorch's ``momentum`` is w (0.1 is a window of 19 batches, 0.01 one
    of 199), Keras's is 1 - w (0.99 is a window of 199). Weights :math:`w (1 - w)^k` and n equal ones have the same sum
    of squares, which is what the variance of an average of independent batches is proportional to.

    Args:
        batches: n, 1 or more.

    Raises:
        NormwiseError: fewer than one batch.

    Example:
        >>> from normwise.estimators import weight_of_window
        >>> weight_of_window(19)
        0.1
        >>> round(1 - weight_of_window(199), 6)  # Keras's momentum
        0.99
    """
    if not batches >= 1:
        raise NormwiseError(f"a window needs 1 batch or more, received {batches}: state it as a number of batches.")
    return 2 / (batches + 1)


def window_of_weight(weight_of_new: float) -> float:
    """The window, in batches, of an exponential average: the inverse of ``weight_of_window``.

    Args:
        weight_of_new: more than 0, at most 1: PyTorch's momentum, or 1 minus Keras's.

    Raises:
        NormwiseError: no such weight.

    Example:
        >>> from normwise.estimators import window_of_weight
        >>> round(window_of_weight(0.1), 6), window_of_weight(1.0)
        (19.0, 1.0)
    """
    if not 0 < weight_of_new <= 1:
        raise NormwiseError(
            f"the weight of a new batch must be more than 0 and at most 1, received {weight_of_new}: "
            "it is PyTorch's momentum, or 1 minus Keras's."
        )
    return (2 - weight_of_new) / weight_of_new
