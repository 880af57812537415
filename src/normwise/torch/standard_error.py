"""How well statistics are known, from how much they differ between batches."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.moments import Moments

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
        ...     error.add(Moments(torch.tensor([value]), torch.tensor([1.0]), torch.tensor([8.0])))
        >>> error.relative(var=torch.tensor([2.0]), eps=0.0)
        tensor([0.4082])
    """

    def __init__(self) -> None:
        self.batches = 0
        self._at: Tensor | None = None

    def add(self, batch: Moments) -> None:
        """One more batch, in float64; a channel that counts nothing says nothing new."""
        if self._at is None:
            self._at = batch.mean  # near the mean, so that the squares about it keep their digits
            self._mean = torch.zeros(2, *batch.mean.shape, dtype=batch.mean.dtype, device=batch.mean.device)
            self._squares = torch.zeros_like(self._mean)
            self._products = torch.zeros_like(batch.mean)
        self.batches += 1
        about = batch.mean - self._at
        seen = torch.stack((about, batch.var + about.square()))
        delta = torch.where(batch.count > 0, seen - self._mean, 0.0)
        self._mean = self._mean + delta / self.batches
        after = torch.where(batch.count > 0, seen - self._mean, 0.0)
        self._squares = self._squares + delta * after
        self._products = self._products + delta[0] * after[1]

    def relative(self, var: Tensor, eps: float) -> Tensor:
        """The larger of the two in standard deviations: of the mean, and of the standard deviation itself.

        Args:
            var: shape (C,), the variance.
            eps: the layer's, which limits what a small variance can do.

        Returns:
            shape (C,); infinite before the second batch.
        """
        if self.batches < 2:
            return torch.full_like(var, float("inf"))
        by_number = self.batches * (self.batches - 1)
        low, spread = self._mean[0], var + eps
        of_mean = self._squares[0] / by_number
        of_var = (self._squares[1] - 4 * low * self._products + 4 * low.square() * self._squares[0]) / by_number
        return torch.maximum((of_mean / spread).sqrt(), of_var.clamp(min=0).sqrt() / (2 * spread))

    def typical(self, var: Tensor, eps: float) -> float:
        """What all but a few channels stay below."""
        return float(self.relative(var, eps).quantile(CHANNELS))


def distance(mean: Tensor, var: Tensor, new_mean: Tensor, new_var: Tensor, eps: float) -> Tensor:
    r"""How far statistics are from new ones, per channel, in standard deviations of the new ones.

    .. math:: \max\Big(\frac{|\mu' - \mu|}{\sigma'}, \; \Big|\ln \frac{\sigma'}{\sigma}\Big|\Big), \quad
        \sigma = \sqrt{v + \epsilon}

    Example:
        >>> one = torch.ones(1)
        >>> distance(3 * one, one, one, 4 * one, 0.0)
        tensor([1.])
    """
    spread = (new_var + eps).sqrt()
    return torch.maximum((new_mean - mean).abs() / spread, (spread / (var + eps).sqrt()).log().abs())
