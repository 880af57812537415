"""An interval for a difference that is known for some seeds on some rows, both of which could have been others.

Every seed is examined on the same test rows. An interval over seeds alone would say how the difference on just these
rows varies; other rows of the same kind would give another. The pigeonhole bootstrap draws seeds and rows again, each
for itself, and is a little too wide rather than too narrow. From few seeds its percentiles are too near: more distant
ones are taken, so far out as to be as wide for normal data as Student's interval (Hesterberg 2015).

References:
    A. B. Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1(2), 2007.
    T. Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from normwise.lab.results import Estimate

Differences = npt.NDArray[np.float64]

RESAMPLES = 4000
LEVEL = 0.95
BLOCKS = 1000
"""The number of test rows above which blocks are drawn and not rows: the rows are in random order, and it is faster."""


def crossed_mean(differences: Differences, unit: str) -> Estimate:
    """Mean over seeds and rows, with an interval for other seeds and other rows.

    Args:
        differences: shape (seeds, rows), of two arms, paired.
        unit: of the differences.

    Returns:
        the estimate, with n the number of seeds; all NaN where a difference is not finite or there is one seed.

    Example:
        >>> crossed_mean(np.ones((3, 5)), "points")
        Estimate(value=1.0, low=1.0, high=1.0, n=3, unit='points')
    """
    seeds, rows = differences.shape
    if seeds < 2 or not np.isfinite(differences).all():
        return Estimate(float("nan"), float("nan"), float("nan"), seeds, unit)
    middle = float(differences.mean())
    if rows > BLOCKS:
        blocks = np.array_split(differences, BLOCKS, axis=1)
        differences, rows = np.stack([block.mean(axis=1) for block in blocks], axis=1), BLOCKS
    generator = np.random.default_rng(0)  # the same numbers give the same interval
    drawn_rows = generator.multinomial(rows, np.full(rows, 1 / rows), RESAMPLES) / rows
    drawn_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    means = np.einsum("ks,kr,sr->k", drawn_seeds, drawn_rows, differences, optimize=True)
    # expanded: Phi(-sqrt(n / (n - 1)) * t(0.975, n - 1)) instead of 0.025
    tail = float(ndtr(-np.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, 0.5 + LEVEL / 2)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(middle, min(float(low), middle), max(float(high), middle), seeds, unit)
