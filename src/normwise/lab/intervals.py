"""Estimates with a 95 % interval from a handful of seeds.

The interval is Student's, of the mean over seeds; for comparisons of the paired differences, for ratios of their
logarithms. Of normal numbers it covers the true mean 95 times in 100, from three seeds on; of skewed ones (exponential)
88 times from 3 and 5 seeds, 90 from 10 and 92 from 20: a test measures it.

Where each seed draws its own training and test images from one set, the draws overlap and the results of different
seeds are no independent ones, so that their spread over the root of n is too small. Inside of ``resampled`` the
variance of the mean is that of Nadeau & Bengio,

    (1 / n + test / training) s^2        instead of s^2 / n,

with the number of test images over that of all others. It is a heuristic, and a careful one here, because seeds also
draw other initial weights, which are independent.

References:
    C. Nadeau and Y. Bengio, Inference for the Generalization Error, Machine Learning 52, 2003.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from normwise.lab.results import Estimate

Numbers = npt.NDArray[np.float64]

_share: ContextVar[float] = ContextVar("_share", default=0.0)


@contextmanager
def resampled(share: float) -> Iterator[None]:
    """Take the variance of a mean in the block to be that of seeds which draw their test images from one set.

    Args:
        share: test images over all others; 0 where seeds are independent.

    Example:
        >>> import numpy as np
        >>> with resampled(1 / 3):
        ...     found = mean(np.array([1.0, 2.0, 3.0]), "points")
        >>> round(found.high, 2), round(mean(np.array([1.0, 2.0, 3.0]), "points").high, 2)
        (5.51, 4.48)
    """
    before = _share.set(share)
    try:
        yield
    finally:
        _share.reset(before)


def mean(values: Numbers, unit: str, *, level: float = 0.95) -> Estimate:
    """Mean over seeds with Student's interval.

    Args:
        values: one per seed; for a paired comparison the differences. One that is infinite counts as the largest, or
            smallest, of the finite ones; NaN has no value, and its seed does not count.
        unit: of the values.
        level: of the interval.

    Returns:
        The estimate; all NaN from fewer than two seeds, and infinite when all that is known of the seeds is.

    Example:
        >>> import numpy as np
        >>> mean(np.array([1.0, 1.0, 1.0]), "points")
        Estimate(value=1.0, low=1.0, high=1.0, n=3, unit='points')
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    n = len(known)
    if n < 2:
        return Estimate(float("nan"), float("nan"), float("nan"), n, unit)
    known = _bounded(known)
    if not np.isfinite(known).all():
        ends = float(known.min()), float(known.max())
        middle = ends[0] if ends[0] == ends[1] else float("nan")
        return Estimate(middle, *ends, n, unit)
    middle = float(known.mean())
    spread = float(known.std(ddof=1))
    if spread <= 1e-12 * float(np.abs(known).max()):  # rounding of equal numbers
        return Estimate(middle, middle, middle, n, unit)
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * spread * float(np.sqrt(1 / n + _share.get()))
    return Estimate(middle, middle - half, middle + half, n, unit)


def _bounded(known: Numbers) -> Numbers:
    """Infinite values as the most extreme finite ones; as they are where none is finite."""
    finite = known[np.isfinite(known)]
    return np.clip(known, finite.min(), finite.max()) if len(finite) else known


def difference(ours: Numbers, theirs: Numbers, unit: str) -> Estimate:
    """Mean of ``ours - theirs``, paired by seed."""
    return mean(ours - theirs, unit)


def ratio(ours: Numbers, theirs: Numbers, unit: str = "ratio") -> Estimate:
    """Geometric mean of ``ours / theirs``, paired by seed; the interval is taken on the logarithms.

    For sizes of which the larger is the worse, as steps, distances and errors: what diverged, NaN, is infinitely large,
    and where both did, neither is larger.

    Args:
        ours: one per seed.
        theirs: the same.
        unit: what the ratio is of, as "times fewer steps".

    Example:
        >>> import numpy as np
        >>> round(ratio(np.array([np.nan, 8.0, 8.0]), np.array([1.0, 1.0, 1.0])).value, 3)
        8.0
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # inf - inf, which is settled below
        one, other = (np.log(np.where(np.isnan(values), np.inf, values)) for values in (ours, theirs))
        logs = np.where(np.isinf(one) & (one == other), 0.0, one - other)
        return transformed(mean(logs, unit), np.exp, log=True)


def largest(deviations: Numbers, unit: str) -> Estimate:
    """The largest of some deviations from an identity, with the smallest and the largest instead of an interval.

    Args:
        deviations: one per seed, not negative.
        unit: of the deviations.

    Example:
        >>> import numpy as np
        >>> largest(np.array([1e-16, 3e-16]), "relative")
        Estimate(value=3e-16, low=1e-16, high=3e-16, n=2, unit='relative')
    """
    return Estimate(float(deviations.max()), float(deviations.min()), float(deviations.max()), len(deviations), unit)


def transformed(estimate: Estimate, function: Callable[[float], float], *, log: bool = False) -> Estimate:
    """The estimate on another scale.

    Args:
        estimate: on the scale on which the mean was taken.
        function: to the other scale; increasing.
        log: whether the mean was taken of logarithms, so that the interval is symmetric on their scale.
    """
    value, low, high = (float(function(number)) for number in (estimate.value, estimate.low, estimate.high))
    return replace(estimate, value=value, low=low, high=high, log=log)


def probability(estimate: Estimate, edge: float) -> float:
    """The probability of an estimate at least so far from a value if that were the true one, on either side.

    Args:
        estimate: with the interval of this file.
        edge: the value.

    Returns:
        Student's two-sided p; below .05 where the 95 % interval leaves the value out. 1 where nothing is known.

    Example:
        >>> import numpy as np
        >>> found = mean(np.array([1.0, 2.0, 3.0]), "points")
        >>> round(probability(found, 0.0), 3), round(probability(found, found.low), 3)
        (0.074, 0.05)
    """
    if np.isnan(estimate.low) or np.isnan(estimate.high):
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):  # edges of 0 and infinite ends are far away
        scale = np.log if estimate.log else np.asarray
        value, low, high, at = (float(scale(x)) for x in (estimate.value, estimate.low, estimate.high, edge))
    half = (high - low) / 2
    if half == 0 or not np.isfinite(half):
        return 1.0 if low <= at <= high else 0.0
    degrees = estimate.n - 1
    distance = abs(value - at) / half * float(stdtrit(degrees, 0.975))
    return 2 * float(stdtr(degrees, -distance))


def cell(estimate: Estimate, decimals: int) -> str:
    """The estimate with its interval, for a table whose caption says what the brackets are.

    Example:
        >>> cell(Estimate(97.52, 96.81, 98.13, 5, "%"), 1)
        '97.5 [96.8, 98.1]'
    """
    return f"{estimate.value:.{decimals}f} [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"


def band(values: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Mean, smallest and largest over seeds, for a line with its band: shape (seeds, points) to three of (points,)."""
    return values.mean(axis=0), values.min(axis=0), values.max(axis=0)
