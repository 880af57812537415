"""Statistics of new data, held by those that a layer has: how many samples these are worth is the prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from normwise.errors import NormwiseError
from normwise.estimators import Estimator
from normwise.moments import Moments
from normwise.torch.recalibration_sites import Site

PRIOR = 4.0
"""Samples that the statistics which a model has are worth, unless the caller says otherwise."""


def check_prior(prior: float, *, called: str) -> None:
    """Refuse what is no number of samples.

    Raises:
        NormwiseError: a negative number or NaN.
    """
    if not prior >= 0:
        raise NormwiseError(
            f"{called} needs a prior of 0 samples or more, received {prior}: "
            "pass for example 16, or math.inf for the statistics that the model has."
        )


def blend(source: Moments, target: Moments, weight: Tensor) -> Moments:
    r"""Both sets as one, the target with this share of the weight; where that is 0, exactly the source.

    .. math:: \mu = (1 - w) \mu_s + w \mu_t, \quad v = (1 - w) v_s + w v_t + w (1 - w) (\mu_t - \mu_s)^2

    Args:
        source: its count is not looked at.
        target: its count is not looked at.
        weight: w, between 0 and 1, shape (C,).

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> blend(Moments(zero, one, 0), Moments(one, one, 0), one / 2)
        Moments(mean=tensor([0.5000]), var=tensor([1.2500]), count=1)
    """
    both = Moments(source.mean, source.var, 1 - weight).merge(Moments(target.mean, target.var, weight))
    kept = weight == 0  # so that not even the sign of a zero changes
    return Moments(torch.where(kept, source.mean, both.mean), torch.where(kept, source.var, both.var), 1)


def held(before: tuple[Tensor, Tensor], prior: float, seen: Moments, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of both together, and of a channel that nothing is known about those before.

    Args:
        before: mean and unbiased variance of the source, shape (C,); where they are not finite there is no prior.
        prior: how many samples they are worth.
        seen: the target's moments, with the number of values.
        samples: how many samples these are of, shape (C,).

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> mean, var = held((zero, one), 3.0, Moments(4 * one, zero, one), one)
        >>> mean.item(), var.item()
        (1.0, 3.75)
    """
    mean, var = before
    finite = mean.isfinite() & var.isfinite()
    # One value has a mean, and its spread is the prior's.
    known = torch.where(finite & (prior > 0), seen.count > 0, seen.count > 1)
    weight = torch.where(finite, samples / (prior + samples).clamp(min=math.ulp(0.0)), 1.0)
    spread = torch.where(seen.count > 1, seen.population_var(), 0.0)
    source = Moments(torch.where(finite, mean, 0.0), torch.where(finite, var, 0.0), 1)
    both = blend(source, Moments(seen.mean, spread, 1), torch.where(known, weight, 0.0))
    return torch.where(known, both.mean, mean), torch.where(known, both.var, var)


class SiteWithPrior(Site):
    """A layer whose statistics before count as those of so many samples.

    Args:
        name: of the layer in the model.
        layer: a batch norm that keeps running statistics.
        estimator: the pooled one.
        prior: how many samples the statistics that it has are worth.
    """

    def __init__(self, name: str, layer: _BatchNorm, estimator: Estimator, prior: float) -> None:
        self.prior = prior
        super().__init__(name, layer, estimator)

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of source and target together."""
        kept = self.statistics
        seen = Moments.from_population_var(kept.mean, kept.var, kept.count)
        return held(self._before, self.prior, seen, self.samples)

    def values(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and variance alone: how many batches a layer was trained with is as it was."""
        return super().values()[:2]

    def _known(self) -> Tensor:
        finite = self._before[0].isfinite() & self._before[1].isfinite()
        enough = torch.where(finite, 0 if self.prior > 0 else 1, 1)
        known: Tensor = (self.statistics.count > enough) & (self.statistics.updates > 0)
        return known
