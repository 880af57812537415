"""What each arm of an experiment measured, at the rate that was best on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from normwise.lab.intervals import Numbers, cell, difference, mean
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Estimate


class Arm:
    """The runs of one arm, at every rate.

    Args:
        values: of the axes, by their names.
        words: for the values, in legends and rows.
        runs: one per seed, whose numbers are lists over the rates; or for every rate the runs at it.
        rates: that were tried; empty where there is but one training.
        inside: where this arm stands in the lists of ``runs``, before the rates.
        choose: picks one of the rates; None: the best on validation images, in the mean over seeds.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        words: Mapping[str, str],
        runs: Outcomes | Sequence[Outcomes],
        rates: Sequence[float],
        inside: tuple[int, ...] = (),
        choose: Callable[[Arm], int] | None = None,
    ) -> None:
        self.values, self.words, self.rates = values, words, tuple(rates)
        self._runs, self._inside, self._choose = runs, inside, choose

    def __getitem__(self, axis: str) -> str:
        """The words for the arm's value of an axis."""
        return self.words[axis]

    def __len__(self) -> int:
        """How many seeds."""
        return len(self._runs if isinstance(self._runs, Outcomes) else self._runs[0])

    def array(self, what: str) -> Numbers:
        """What was measured: shape (seeds, rates, ...), or (seeds, ...) where there is one training."""
        if not isinstance(self._runs, Outcomes):
            return np.stack([runs.array(what) for runs in self._runs], axis=1)
        found = self._runs.array(what)
        for place in self._inside:
            found = found[:, place]
        return found

    @cached_property
    def best(self) -> int:
        """Which of the rates is picked."""
        if self._choose is not None:
            return self._choose(self)
        if not isinstance(self._runs, Outcomes):
            return int(np.argmax([runs.array("validation").mean() for runs in self._runs]))
        return int(self.array("validation").mean(axis=0).argmax())

    @property
    def rate(self) -> str:
        """The rate that is picked, in words."""
        return f"{self.rates[self.best]:g}"

    def numbers(self, what: str = "test") -> Numbers:
        """What was measured at the rate that is picked: shape (seeds, ...)."""
        if not isinstance(self._runs, Outcomes):
            return self._runs[self.best].array(what)
        return self.array(what)[:, self.best]

    def points(self, what: str = "test") -> Numbers:
        """Accuracies at the rate that is picked, in %: shape (seeds, ...)."""
        return 100 * self.numbers(what)

    def percent(self, decimals: int, what: str = "test") -> str:
        """The cell of a table: the mean of ``points`` with its interval."""
        return cell(mean(self.points(what), "%"), decimals)


class Arms:
    """The arms of a grid, or those of them that have some values in common.

    Args:
        axes: names of the axes in which they differ.
        arms: by their values of these axes, in the order of the grid.
    """

    def __init__(self, axes: Sequence[str], arms: Mapping[tuple[Any, ...], Arm]) -> None:
        self.axes, self._arms = tuple(axes), arms

    def __iter__(self) -> Iterator[Arm]:
        return iter(self._arms.values())

    def __len__(self) -> int:
        return len(self._arms)

    def __getitem__(self, key: Any) -> Arm:
        """The arm with these values of the axes, in their order."""
        return self._arms[key if isinstance(key, tuple) else (key,)]

    @property
    def seeds(self) -> int:
        """How many seeds each arm has."""
        return len(next(iter(self)))

    @property
    def words(self) -> Mapping[str, str]:
        """The words for what all of them have in common."""
        first, *others = self
        return {axis: text for axis, text in first.words.items() if all(arm.words[axis] == text for arm in others)}

    def by(self, *axes: str) -> list[Arms]:
        """The arms in groups that agree on some axes, in the order of the grid."""
        groups: dict[tuple[Any, ...], dict[tuple[Any, ...], Arm]] = {}
        rest = [axis for axis in self.axes if axis not in axes]
        for arm in self:
            group = groups.setdefault(tuple(arm.values[axis] for axis in axes), {})
            group[tuple(arm.values[axis] for axis in rest)] = arm
        return [Arms(rest, group) for group in groups.values()]

    def where(self, **wanted: Any) -> Arms:
        """The arms that have these values."""
        found = {
            tuple(arm.values[axis] for axis in self.axes if axis not in wanted): arm
            for arm in self
            if all(arm.values[axis] == value for axis, value in wanted.items())
        }
        return Arms([axis for axis in self.axes if axis not in wanted], found)


def gap(ours: Arm, theirs: Arm, what: str = "test") -> Estimate:
    """Points of accuracy between two arms, each at the rate that is picked for it, paired over seeds."""
    return difference(ours.points(what), theirs.points(what), "points")
