"""Statistics of new data, held by those that a layer has: how many samples these are worth is the prior."""

from __future__ import annotations

from typing import Any

from normwise.errors import NormwiseError
from normwise.moments import Moments, where
from normwise.recalibration.asked import as_number

Array = Any  # NumPy's or PyTorch's, in float64

PRIOR = 4.0
"""Samples that the statistics which a model has are worth, unless the caller says otherwise."""


def check_prior(prior: float, *, called: str) -> None:
    """Refuse what is no number of samples.

    Raises:
        NormwiseError: a negative number, NaN, or no number.
    """
    if not as_number(prior) >= 0:
        raise NormwiseError(
            f"{called} needs a prior of 0 samples or more, received {prior!r}: "
            "pass for example 16, or math.inf for the statistics that the model has."
        )


def blend(source: Moments, target: Moments, weight: Array) -> Moments:
    r"""Both sets as one, the target with this share of the weight; where that is 0, exactly the source.

    .. math:: \mu = (1 - w) \mu_s + w \mu_t, \quad v = (1 - w) v_s + w v_t + w (1 - w) (\mu_t - \mu_s)^2

    Args:
        source: its count is not looked at.
        target: its count is not looked at.
        weight: w, between 0 and 1, shape (C,).

    Example:
        >>> import numpy as np
        >>> zero, one = np.zeros(1), np.ones(1)
        >>> blend(Moments(zero, one, 0), Moments(one, one, 0), one / 2)
        Moments(mean=array([0.5]), var=array([1.25]), count=1)
    """
    both = Moments(source.mean, source.var, 1 - weight).merge(Moments(target.mean, target.var, weight))
    kept = weight == 0  # so that not even the sign of a zero changes
    return Moments(where(kept, source.mean, both.mean), where(kept, source.var, both.var), 1)


def held(before: tuple[Array, Array], prior: float, seen: Moments, samples: Array) -> tuple[Array, Array]:
    """Mean and unbiased variance of both together, and of a channel that nothing is known about those before.

    Args:
        before: mean and unbiased variance of the source, shape (C,); where they are not finite there is no prior.
        prior: how many samples they are worth.
        seen: the target's moments, with the number of values.
        samples: how many samples these are of, shape (C,).

    Example:
        >>> import numpy as np
        >>> zero, one = np.zeros(1), np.ones(1)
        >>> mean, var = held((zero, one), 3.0, Moments(4 * one, zero, one), one)
        >>> mean.item(), var.item()
        (1.0, 3.75)
    """
    mean, var = before
    zeros = samples * 0.0
    finite = (mean - mean == 0) & (var - var == 0)
    several = seen.count > 1
    # One value has a mean, and its spread is the prior's.
    known = several | finite & (seen.count > 0) if prior > 0 else several
    together = samples + prior
    weight = where(known, where(finite, samples / (together + (together == 0)), zeros + 1.0), zeros)
    spread = where(several, seen.unbiased_var(), zeros)
    source = Moments(where(finite, mean, zeros), where(finite, var, zeros), 1)
    both = blend(source, Moments(seen.mean, spread, 1), weight)
    return where(known, both.mean, mean), where(known, both.var, var)
