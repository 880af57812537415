"""The runs of an experiment side by side, and the verdicts that all of them bear."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from normwise.lab.results import DIGITS, EDITION, Result, Statement, Verdict
from normwise.lab.settling import FOUND, agreed, discoveries

FIRST_EDITION = "of the first edition, to be measured again"


@dataclass(frozen=True)
class Line:
    """One statement in all runs on the same data.

    Args:
        statement: of the first run, with the verdict that all of them bear.
        first, second: what a run alone says; the second is None where there was none.
        neighbours: the same at neighbouring settings, by their names.
        untried: neighbouring settings that the experiment has, and that were not run.
    """

    statement: Statement
    first: Statement
    second: Statement | None
    neighbours: Mapping[str, Statement]
    untried: Sequence[str] = ()

    @property
    def compared(self) -> bool:
        """True if both runs have an interval of seeds, as an identity has not."""
        return self.second is not None and self.first.verdict is not Verdict.EXACT

    @property
    def apart(self) -> bool:
        """True if the intervals of the two runs have no value in common."""
        if self.second is None or not self.compared:
            return False
        one, other = self.first.effect, self.second.effect
        return one.high < other.low or other.high < one.low


@dataclass(frozen=True)
class Runs:
    """All runs of an experiment on the same data."""

    first: Result
    second: Result | None
    neighbours: Mapping[str, Result]

    @property
    def data(self) -> str:
        """The data that they are measured on, in a few words."""
        return self.first.data or f"{DIGITS}, or data of its own"

    @property
    def outdated(self) -> bool:
        """True if the verdicts are by older rules than the present ones, so that they are none."""
        return self.first.edition < EDITION

    @cached_property
    def lines(self) -> list[Line]:
        """One for every statement."""
        if self.outdated:
            return [Line(each, each, None, {}) for each in current(self.first).conclusion.statements]
        second = _by_text(self.second)
        neighbours = {name: _by_text(result) for name, result in self.neighbours.items()}
        found = []
        for first in self.first.conclusion.statements:
            near = {name: each[first.text] for name, each in neighbours.items() if first.text in each}
            # a setting that was run and lacks the statement, as one about a rate that it does not have, is no setting
            stated = [name for name in self.first.neighbours if name in near or name not in neighbours]
            again = second.get(first.text)
            untried = [name for name in stated if name not in near]
            found.append(Line(agreed(first, again, near, stated, self.first.says), first, again, near, untried))
        return found


def current(result: Result) -> Result:
    """The result, whose verdicts are none where they are by other rules than the present ones."""
    if result.edition >= EDITION:
        return result
    said = (replace(each, verdict=Verdict.OPEN, why=FIRST_EDITION, p=math.nan) for each in result.conclusion.statements)
    return replace(result, conclusion=replace(result.conclusion, statements=tuple(said)))


def gathered(results: Iterable[Result]) -> list[Runs]:
    """Results of any runs, those of one experiment on the same data together, in the order in which they came.

    The first run is the one at the experiment's own settings with the smallest first seed; the second the next one
    whose seeds are all others.
    """
    groups: dict[tuple[str, object], list[Result]] = {}
    for result in results:
        groups.setdefault((result.experiment, result.settings.get("data")), []).append(result)
    found = []
    for group in groups.values():
        own = sorted((each for each in group if not each.setting), key=lambda each: min(each.seeds, default=0))
        if own:
            others = (each for each in own[1:] if not set(each.seeds) & set(own[0].seeds))
            second = next((each for each in others if each.edition == own[0].edition), None)
            near = {each.setting: each for each in group if each.setting and each.edition == own[0].edition}
            found.append(Runs(own[0], second, near))
    return found


def apart(runs: Iterable[Runs]) -> tuple[int, int]:
    """The number of statements whose intervals in the two runs have no value in common, and of those with two."""
    lines = [line for each in runs for line in each.lines if line.compared]
    return sum(line.apart for line in lines), len(lines)


def repeated(runs: Iterable[Runs]) -> int:
    """The number of statements that rest on the same interval as one before them, or on its mirror image."""
    found = 0
    for each in runs:
        effects = [line.first.effect for line in each.lines]
        spans = [
            tuple(sorted((f"{abs(effect.low):.9g}", f"{abs(effect.high):.9g}")))
            for effect in effects
            if effect.high > effect.low  # one without width, as 0, says nothing of where it comes from
        ]
        found += len(spans) - len(set(spans))
    return found


def by_experiment(runs: Iterable[Runs]) -> list[list[Runs]]:
    """The runs of each experiment on all data, those on its own data first, in the order in which they came."""
    found: dict[str, list[Runs]] = {}
    for each in runs:
        found.setdefault(each.first.experiment, []).append(each)
    return [sorted(group, key=lambda each: bool(each.first.settings.get("data"))) for group in found.values()]


def count(statements: Sequence[Statement]) -> dict[Verdict, tuple[int, int]]:
    """The number of statements with each verdict, and of those that keep it when all are taken into account."""
    kept = discoveries(statements)
    found = {
        verdict: [place for place, each in enumerate(statements) if each.verdict is verdict] for verdict in Verdict
    }
    return {
        verdict: (len(places), sum(place in kept for place in places) if verdict in FOUND else len(places))
        for verdict, places in found.items()
    }


def _by_text(result: Result | None) -> dict[str, Statement]:
    return {each.text: each for each in result.conclusion.statements} if result else {}
