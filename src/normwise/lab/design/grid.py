"""The axes of an experiment: from them follow its trials and its arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, Generic, TypeVar

from normwise.lab.design.arms import Arm, Arms
from normwise.lab.outcomes import Outcomes

Trial = TypeVar("Trial")
WITH_AND_WITHOUT = {True: "with batch norm", False: "without"}
"""The axis of most experiments."""
RATE = "rate"
"""The axis that arms do not have: each picks its rate."""


class Grid(Generic[Trial]):
    """Every combination of some values, with every seed.

    Args:
        trial: the dataclass of a trial; its fields are the axes and ``seed``.
        inside: axes that are no fields of a trial, because it trains all their values side by side; what it measures
            are lists over their values, and then over the rates.
        largest_first: an axis whose largest value is begun first, because it takes longest.
        **axes: for each other field of a trial the values with the words for them, or the name of the setting that
            holds the values. The first changes slowest.

    Example:
        >>> from types import SimpleNamespace as Trial
        >>> grid = Grid(Trial, depth="depths", batch_norm=WITH_AND_WITHOUT)
        >>> [trial.depth for trial in grid.trials(Trial(depths=(3, 5)), seeds=(0,))]
        [3, 3, 5, 5]
    """

    def __init__(
        self,
        trial: Callable[..., Trial],
        *,
        inside: Mapping[str, str] | None = None,
        largest_first: str = "",
        **axes: str | Mapping[Any, str],
    ) -> None:
        self._trial, self._axes, self._inside, self._largest_first = trial, axes, dict(inside or {}), largest_first

    def trials(self, settings: Any, seeds: Sequence[int]) -> list[Trial]:
        """Every unit of work, in the order in which it is best begun."""
        values = {axis: list(_values(settings, source)) for axis, source in self._axes.items()}
        if self._largest_first:
            values[self._largest_first].sort(reverse=True)
        found = product(*values.values(), seeds)
        return [self._trial(**dict(zip((*values, "seed"), each, strict=True))) for each in found]

    def arms(
        self,
        settings: Any,
        outcomes: Outcomes,
        choose: Callable[[Arm], int] | None = None,
        at: int | None = None,
    ) -> Arms:
        """The arms with their measurements.

        Args:
            settings: of the experiment.
            outcomes: of all trials.
            choose: picks the rate of an arm; None: the one that is best on validation images.
            at: the place of the rate that all arms have; None: each has its own.
        """
        rates = getattr(settings, "rates", ())
        axes = {axis: _values(settings, source) for axis, source in self._axes.items() if axis != RATE}
        inside = {axis: _values(settings, source) for axis, source in self._inside.items()}
        found = {}
        for key in product(*axes.values()):
            own = dict(zip(axes, key, strict=True))
            runs = outcomes.where(**own) if own else outcomes
            each = [runs.where(rate=rate) for rate in rates] if RATE in self._axes else runs
            for places in product(*(enumerate(values) for values in inside.values())):
                values = own | dict(zip(inside, (value for _, value in places), strict=True))
                words = {axis: self._words(axis, value) for axis, value in values.items()}
                within = tuple(place for place, _ in places)
                found[tuple(values.values())] = Arm(values, words, each, rates, within, choose, at)
        return Arms([*axes, *inside], found)

    def _words(self, axis: str, value: Any) -> str:
        source = self._axes.get(axis)
        if isinstance(source, Mapping):
            return source[value]
        return f"{value:g}" if isinstance(value, float) else str(value)


def _values(settings: Any, source: str | Mapping[Any, str]) -> Sequence[Any]:
    return getattr(settings, source) if isinstance(source, str) else list(source)
