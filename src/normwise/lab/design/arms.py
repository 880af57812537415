"""The measurements of each arm of an experiment, at the rate that was best on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from normwise.lab.intervals import Numbers, cell, difference, mean
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Estimate

LEARNT = 0.2
"""An arm whose accuracy on validation images is no higher at any rate did not train; guessing gives half of it."""
TIE = 0.002
"""An accuracy that is lower by no more, in the mean over seeds, is as good: a third of an image of 270 and a seed."""


def pick(scores: Numbers, tie: float, accuracies: Numbers) -> int:
    """The place of the rate that suits an arm.

    It is the rate of the highest score. Where that is the smallest or the largest rate, and one between is as good, it
    is that one. An arm that did not train at any rate gets the rate in the middle, because its scores are chance.

    Args:
        scores: of each rate, the larger the better: shape (rates,).
        tie: a score that is lower by no more is as good.
        accuracies: of each rate in the end, on validation images: shape (rates,).

    Example:
        >>> import numpy as np
        >>> pick(np.array([0.5, 0.9, 0.901]), 0.002, np.array([0.5, 0.9, 0.901]))
        1
    """
    if not trains(accuracies):
        return len(scores) // 2
    best = int(np.argmax(scores))
    if len(scores) > 2 and best in (0, len(scores) - 1):
        inner = 1 + int(np.argmax(scores[1:-1]))
        return inner if scores[inner] >= scores[best] - tie else best
    return best


def trains(accuracies: Numbers) -> bool:
    """True if an arm learns anything at one of its rates."""
    return bool(np.max(accuracies) > LEARNT)


def at_an_edge(places: Numbers, rates: Sequence[float]) -> str:
    """The obstacle of rates that each seed picked for itself: at an edge of the grid in half of them or more; or empty.

    Args:
        places: of the rates that were picked, shape (seeds,).
        rates: that there were.
    """
    edge = np.isin(places, (0, len(rates) - 1))
    return "the best rate lies at the edge of its grid" if len(rates) > 1 and edge.mean() >= 0.5 else ""


def most_accurate(arm: Arm, what: str = "validation") -> int:
    """Picks for an arm the rate that is best on validation images, in the mean over seeds."""
    scores = np.array([values.mean() for values in np.moveaxis(arm.array(what), 1, 0).copy()])
    return pick(scores, TIE, scores)


class Arm:
    """The runs of one arm, at every rate.

    Args:
        values: of the axes, by their names.
        words: for the values, in legends and rows.
        runs: one per seed, whose numbers are lists over the rates; or for every rate the runs at it.
        rates: that were tried; empty where there is but one training.
        inside: where this arm stands in the lists of ``runs``, before the rates.
        choose: picks one of the rates; None: ``most_accurate``.
        at: the place of the rate that is given and not picked; None where it is picked.

    Attributes:
        hindered: why its numbers allow no verdict, besides its rate: something else of it was picked at an edge; or
            empty.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        words: Mapping[str, str],
        runs: Outcomes | Sequence[Outcomes],
        rates: Sequence[float],
        inside: tuple[int, ...] = (),
        choose: Callable[[Arm], int] | None = None,
        at: int | None = None,
    ) -> None:
        self.values, self.words, self.rates = values, words, tuple(rates)
        self._runs, self._inside, self._choose, self.at = runs, inside, choose or most_accurate, at
        self.hindered = ""

    def __getitem__(self, axis: str) -> str:
        """The words for the arm's value of an axis."""
        return self.words[axis]

    def __len__(self) -> int:
        """The number of seeds."""
        return len(self._runs if isinstance(self._runs, Outcomes) else self._runs[0])

    def array(self, what: str) -> Numbers:
        """The measured values: shape (seeds, rates, ...), or (seeds, ...) where there is one training."""
        if not isinstance(self._runs, Outcomes):
            return np.stack([runs.array(what) for runs in self._runs], axis=1)
        found = self._runs.array(what)
        for place in self._inside:
            found = found[:, place]
        return found

    @cached_property
    def best(self) -> int:
        """The place of the rate that is picked."""
        return self._choose(self) if self.at is None else self.at

    @cached_property
    def trained(self) -> bool:
        """True if it learnt anything at one of its rates, or was not looked at with validation images."""
        try:
            accuracies = self.array("validation")
        except KeyError:
            return True
        return trains(accuracies.reshape(*accuracies.shape[:2], -1)[..., -1].mean(axis=0))

    @property
    def obstacle(self) -> str:
        """The reason why its numbers allow no verdict: its rate was picked at the edge of the grid; or empty."""
        if not self._at_an_edge:
            return self.hindered
        whose = ", ".join(self.words.values())
        return f"the best rate lies at the edge of its grid{f' ({whose})' if whose else ''}"

    @property
    def _at_an_edge(self) -> bool:
        picked = self.at is None and len(self.rates) > 1 and self.trained
        return picked and self.best in (0, len(self.rates) - 1)

    @property
    def rate(self) -> str:
        """The rate that is picked, in words."""
        words = "" if self.trained else ", did not train"
        return f"{self.rates[self.best]:g}{', edge' if self._at_an_edge else words}"

    @property
    def runs(self) -> Outcomes:
        """The trials at the rate that is picked, where rates are trials of their own."""
        return self._runs if isinstance(self._runs, Outcomes) else self._runs[self.best]

    def numbers(self, what: str = "test") -> Numbers:
        """The values measured at the rate that is picked: shape (seeds, ...)."""
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
        """The number of seeds of each arm."""
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
    """Points of accuracy between two arms, each at the rate that is picked for it, paired over seeds.

    Raises:
        ValueError: one of the two had more rates to choose from.
    """
    effect = difference(ours.points(what), theirs.points(what), "points")
    return replace(effect, obstacle=obstacle(ours, theirs))


def obstacle(*arms: Arm) -> str:
    """The reason why a comparison of arms, or of two measures of one arm, allows no verdict; or empty.

    It is the obstacle of the first that has one, or that none of them learns: numbers that are all of guessing do not
    become evidence by being compared. One that does not learn against one that does is evidence.

    Raises:
        ValueError: one had more rates to choose from than another, which favours it.
    """
    picked = {len(arm.rates) for arm in arms if arm.at is None}
    if len(picked) > 1:
        raise ValueError(f"arms are compared that had {sorted(picked)} rates to choose from: give all the same number.")
    edge = next((arm.obstacle for arm in arms if arm.obstacle), "")
    if edge or any(arm.trained for arm in arms):
        return edge
    whose = ", ".join(dict.fromkeys(words for arm in arms for words in arm.words.values()))
    return f"no network learns at any rate{f' ({whose})' if whose else ''}"
