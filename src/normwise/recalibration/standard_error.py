"""The standard error of statistics, from how much they differ between batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from normwise.moments import Moments, where

Array = Any  # NumPy's or PyTorch's, in float64

CHANNELS = 0.95
"""The share of a layer's channels that must be known so well; a few almost dead ones never are."""


class StandardError:
    r"""The standard errors of a channel's mean and variance, from the spread of what the batches say of them.

    Values of one image are alike, so that it is not the number of values that counts. Each batch is one observation,

    .. math:: u_j = \mu_{B_j}, \quad q_j = v_{B_j} + (\mu_{B_j} - \mu)^2

    whose averages are the mean and the variance of the population, and whose standard deviation over :math:`k` batches,
    divided by :math:`\sqrt k`, is the standard error of these. It is right for batches that are drawn alike, as a
    shuffling loader draws them, and far too small for sorted data.

    Example:
        >>> error = StandardError()
        >>> for value in (0.0, 2.0, 0.0, 2.0):
        ...     error.add(Moments(np.array([value]), np.array([1.0]), np.array([8.0])))
        >>> error.relative(var=np.array([2.0]), eps=0.0).round(4)
        array([0.4082])
    """

    def __init__(self) -> None:
        self.batches = 0
        self._at: Array = None

    def add(self, batch: Moments) -> None:
        """One more batch, in float64 and finite; a channel that counts nothing says nothing new."""
        if self._at is None:
            self._at = batch.mean  # near the mean, so that the squares about it keep their digits
            self._low = self._high = self._of_low = self._of_high = self._products = batch.mean * 0.0
        self.batches += 1
        about = batch.mean - self._at
        new = batch.count > 0
        zeros = about * 0.0
        low = where(new, about - self._low, zeros)
        high = where(new, batch.var + about * about - self._high, zeros)
        self._low = self._low + low / self.batches
        self._high = self._high + high / self.batches
        after_low = where(new, about - self._low, zeros)
        after_high = where(new, batch.var + about * about - self._high, zeros)
        self._of_low = self._of_low + low * after_low
        self._of_high = self._of_high + high * after_high
        self._products = self._products + low * after_high

    def relative(self, var: Array, eps: float) -> Array:
        """The larger of the two in standard deviations: of the mean, and of the standard deviation itself.

        Args:
            var: shape (C,), the variance.
            eps: the layer's, which limits what a small variance can do.

        Returns:
            shape (C,); infinite before the second batch.
        """
        if self.batches < 2:
            return var * 0.0 + math.inf
        by_number = self.batches * (self.batches - 1)
        low, spread = self._low, var + eps
        of_mean = self._of_low / by_number
        of_var = (self._of_high - 4 * low * self._products + 4 * low * low * self._of_low) / by_number
        return _larger((of_mean / spread) ** 0.5, where(of_var > 0, of_var, of_var * 0.0) ** 0.5 / (2 * spread))

    def typical(self, var: Array, eps: float) -> float:
        """The bound of the relative standard error of all but a few channels; infinite before the second batch."""
        if self.batches < 2:
            return math.inf
        return float(np.quantile(self.relative(var, eps).tolist(), CHANNELS))


def distance(mean: Array, var: Array, new_mean: Array, new_var: Array, eps: float) -> Array:
    r"""The distance of statistics from new ones, per channel, in standard deviations of the new ones.

    .. math:: \max\Big(\frac{|\mu' - \mu|}{\sigma'}, \; \Big|\ln \frac{\sigma'}{\sigma}\Big|\Big), \quad
        \sigma = \sqrt{v + \epsilon}

    Example:
        >>> one = np.ones(1)
        >>> distance(3 * one, one, one, 4 * one, 0.0)
        array([1.])
    """
    spread = (new_var + eps) ** 0.5
    ratio = spread / (var + eps) ** 0.5
    return _larger(abs(new_mean - mean) / spread, abs(np.log(ratio) if isinstance(ratio, np.ndarray) else ratio.log()))


def _larger(one: Array, other: Array) -> Array:
    """The larger of two arrays, element by element; NaN where either is."""
    return where((one > other) | (one != one), one, other)  # NaN is not itself
