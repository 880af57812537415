"""The words for times taken in turn: medians of paired ratios, and nothing where these are too far apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

WIDEST = 1.3  # the upper quartile over the lower: beyond it a median says more of the machine than of what was timed
ATTEMPTS = 3
TOO_BUSY = "machine too busy"

Found = TypeVar("Found")


@dataclass(frozen=True)
class Spread:
    """The median, the smallest and the largest, of how many, and the quartiles."""

    median: float
    low: float
    high: float
    pairs: int
    lower: float = math.nan
    upper: float = math.nan

    @property
    def width(self) -> float:
        """The upper quartile over the lower; not a number where there are none.

        >>> spread([1.0, 2.0, 3.0, 4.0, 5.0]).width
        2.0
        """
        return self.upper / self.lower

    @property
    def calm(self) -> bool:
        """True if the median may be published.

        >>> spread([0.9, 1.0, 1.1]).calm, spread([0.5, 1.0, 2.0]).calm
        (True, False)
        """
        return self.width <= WIDEST

    @property
    def said(self) -> str:
        """The text that is published: the numbers, or why there are none."""
        return str(self) if self.calm else f"{TOO_BUSY}: the quartiles were {self.lower:.2f} and {self.upper:.2f}"

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def spread(values: Sequence[float]) -> Spread:
    """The spread of one value or more."""
    lower, upper = values[0], values[0]
    if len(values) > 1:
        lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), min(values), max(values), len(values), lower, upper)


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """The ratio of their time to ours, each of theirs against ours of the same round."""
    return spread([a / b for a, b in zip(theirs, ours, strict=True)])


def widest(found: Mapping[str, Spread]) -> float:
    """The largest width of these; 1 of none.

    >>> widest({"calm": spread([1.0, 1.0]), "busy": spread([1.0, 2.0, 3.0, 4.0, 5.0])}), widest({})
    (2.0, 1.0)
    """
    return max((each.width for each in found.values()), default=1.0)


def published(found: Mapping[str, Spread]) -> tuple[dict[str, Spread], dict[str, str]]:
    """Those that may be published, and for each of the others the reason why it may not.

    >>> kept, absent = published({"calm": spread([1.0, 1.0]), "busy": spread([1.0, 2.0, 3.0, 4.0, 5.0])})
    >>> list(kept), absent
    (['calm'], {'busy': 'machine too busy: the quartiles were 2.00 and 4.00'})
    """
    calm = {name: each for name, each in found.items() if each.calm}
    return calm, {name: each.said for name, each in found.items() if name not in calm}


def calmest(attempt: Callable[[], Found], width: Callable[[Found], float]) -> Found:
    """The narrowest result of ``attempt``, which is called again where one is too wide, ``ATTEMPTS`` times at most.

    >>> widths = iter([2.0, 1.5, 1.2])
    >>> calmest(lambda: next(widths), lambda found: found)
    1.2
    """
    tried: list[Found] = []
    while len(tried) < ATTEMPTS:
        tried.append(attempt())
        if width(tried[-1]) <= WIDEST:
            break
    return min(tried, key=width)


def geometric_mean(values: Iterable[tuple[float, float]]) -> float:
    """The geometric mean of (value, weight); NaN where there is none.

    >>> geometric_mean([(2.0, 1), (8.0, 1)])
    4.0
    """
    pairs = list(values)
    total = sum(weight for _, weight in pairs)
    return math.exp(sum(weight * math.log(value) for value, weight in pairs) / total) if total else math.nan
