"""The number of paired seeds, or of rows, that would decide a comparison that is undecided.

The interval's width comes from three parts: how much the seeds differ, how much the rows do, and the rest. More seeds
make the first and the last smaller, and leave that of the rows; Student's quantile falls with them too. An interval
decides when it is narrower than the difference is far from 0, or than the difference is far from the nearer edge of
the margin. That takes the difference as it was found, which is itself uncertain: the answer is a size, no promise.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from normwise.lab.comparison.crossed import LEVEL, Differences
from normwise.lab.comparison.found import Needed
from normwise.lab.results import Estimate

MOST_TIMES = 100
"""The largest multiple of the budget or of the rows that is told; who would need more is told so, without a number."""
MOST_SEEDS = 10_000
"""The number of seeds beyond which more seeds no longer change what rows leave open."""


def needed(
    differences: Differences, effect: Estimate, margin: float, *, budget: float, spent: float, pair: float
) -> Needed:
    """The seeds with their budget, or the rows, that it would take to decide.

    Args:
        differences: shape (seeds, rows), of the two arms, paired; at least two seeds.
        effect: what ``crossed_mean`` found in them; its interval contains 0 and crosses an edge of the margin.
        margin: of practical indifference.
        budget: seconds that were given.
        spent: seconds until the last comparison.
        pair: seconds of one paired seed of the last comparison.

    Example:
        >>> differences = np.array([[3.0, 2.0], [-2.0, -3.0], [3.0, 3.0]])
        >>> from normwise.lab.comparison.crossed import crossed_mean
        >>> effect = crossed_mean(differences, "points")
        >>> found = needed(differences, effect, 1.0, budget=60, spent=30, pair=10)
        >>> found.times == found.seconds / 60
        True
    """
    widths = Widths(differences, effect)
    enough = max(abs(effect.value), margin - abs(effect.value))
    if not widths.at(MOST_SEEDS) < enough:
        rows = widths.rows_for(enough)
        return Needed(rows=rows if rows <= MOST_TIMES else None)
    low, high = effect.n, MOST_SEEDS  # more than low are needed, high are enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if widths.at(middle) < enough else (middle, high)
    seconds = spent + high * pair
    times = max(seconds / budget, 1.0)
    return Needed(high, seconds, times) if times <= MOST_TIMES else Needed()


class Widths:
    """Half the width of the interval that other numbers of seeds and rows would give.

    Args:
        differences: shape (seeds, rows).
        effect: their mean, with its interval.
    """

    def __init__(self, differences: Differences, effect: Estimate) -> None:
        seeds, rows = self._seeds, self._rows = differences.shape
        per_seed, per_row = differences.mean(axis=1), differences.mean(axis=0)
        rest = differences - per_seed[:, None] - per_row[None, :] + differences.mean()
        of_rest = float(np.square(rest).sum()) / max((seeds - 1) * (rows - 1), 1)
        # what remains of the spread of means once the rest's part in it is taken off
        self._of_seeds = max(float(per_seed.var(ddof=1)) - of_rest / rows, 0.0)
        self._of_rows = max(float(per_row.var(ddof=1)) - of_rest / seeds, 0.0) if rows > 1 else 0.0
        self._of_rest = 3 * of_rest  # as the pigeonhole bootstrap counts it
        self._now = (effect.high - effect.low) / 2 / self._relative(seeds, rows)

    def at(self, seeds: int) -> float:
        """The half width with so many seeds on the same rows."""
        return self._now * self._relative(seeds, self._rows)

    def rows_for(self, enough: float) -> float:
        """The factor on the rows that brings it below ``enough``, with so many seeds that only rows are left."""
        return (self.at(MOST_SEEDS) / enough) ** 2

    def _relative(self, seeds: int, rows: int) -> float:
        variance = self._of_seeds / seeds + self._of_rows / rows + self._of_rest / (seeds * rows)
        return float(stdtrit(seeds - 1, 0.5 + LEVEL / 2)) * math.sqrt(variance)
