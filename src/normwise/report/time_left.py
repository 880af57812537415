"""The time that a run will still take, from the times that its finished trials took."""

from __future__ import annotations

import math
from collections.abc import Mapping


class TimeLeft:
    """Counts trials off; an experiment whose trials nobody has timed yet is taken for an average one.

    Args:
        missing: of each experiment, how many trials are to do.
        workers: how many are done side by side.
    """

    def __init__(self, missing: Mapping[str, int], workers: int) -> None:
        self._missing = dict(missing)
        self._workers = max(1, workers)
        self._took = dict.fromkeys(missing, (0, 0.0))

    def on_trial_done(self, experiment: str, seconds: float) -> None:
        """One more trial was finished."""
        self._missing[experiment] -= 1
        number, sum_ = self._took[experiment]
        self._took[experiment] = (number + 1, sum_ + seconds)

    def seconds(self) -> float:
        """The seconds that are left; NaN as long as no trial has been timed.

        Example:
            >>> clock = TimeLeft({"slow": 4, "unknown": 2}, workers=2)
            >>> clock.on_trial_done("slow", 10.0)
            >>> clock.seconds()  # 3 + 2 trials of 10 seconds, two at a time
            25.0
        """
        if not any(self._missing.values()):
            return 0.0
        timed = sum(number for number, _ in self._took.values())
        if not timed:
            return math.nan
        average = sum(sum_ for _, sum_ in self._took.values()) / timed
        left = 0.0
        for name, missing in self._missing.items():
            number, sum_ = self._took[name]
            left += missing * (sum_ / number if number else average)
        return left / self._workers


def words(seconds: float) -> str:
    """A time as one would say it.

    Example:
        >>> words(42.0), words(300.0), words(6000.0), words(float("nan"))
        ('42 s', '5 min', '1 h 40 min', '')
    """
    if math.isnan(seconds):
        return ""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
