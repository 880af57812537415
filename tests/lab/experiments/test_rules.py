"""Every statement can come out each way, has the same name whatever was measured, and somebody who says it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from normwise.lab import names
from normwise.lab.experiment import NEIGHBOURS, load, neighbours_of
from normwise.lab.results import DIGITS, Conclusion, Regime, Statement, Verdict
from normwise.lab.settling import settled
from tests.lab.experiments.made_up import picking, universes

Run = Callable[[str], Any]
every = pytest.mark.parametrize("name", names())
YES, UNDECIDED = {Verdict.REPRODUCED, Verdict.EXACT}, {Verdict.SMALLER, Verdict.NOT_VISIBLE}
MANY = 400
"""Universes in which a verdict has to turn up; most do within fifty."""


def free(conclusion: Conclusion) -> Conclusion:
    """The statements without obstacles, which tiny grids have everywhere."""
    unhindered = (replace(each, effect=replace(each.effect, obstacle="")) for each in conclusion.statements)
    return replace(conclusion, statements=tuple(unhindered))


def lacking(statement: Statement, seen: set[Verdict]) -> str:
    """The kind of verdict that none of the universes gave a statement, in words; or empty."""
    no = Verdict.CONTRADICTED if statement.regime is Regime.OWN else Verdict.ELSEWHERE
    if not seen & YES:
        return "is never reproduced"
    if no not in seen:
        return "can never fail"
    return "" if seen & UNDECIDED or Verdict.EXACT in seen else "is never undecided"


@every
def test_every_statement_can_be_reproduced_fail_and_be_left_undecided(ran: Run, name: str) -> None:
    experiment, tiny = load(name), ran(name)
    seen: dict[str, set[Verdict]] = defaultdict(set)
    texts: set[tuple[str, ...]] = set()
    missing = ["all"]
    for number, outcomes in enumerate(universes(experiment, tiny.settings, tiny.outcomes, MANY, tiny.levels)):
        with np.errstate(all="ignore"):  # numbers out of all reason
            found = settled(free(experiment.conclude(tiny.settings, outcomes)), experiment.REGIME).statements
        texts.add(tuple(each.text for each in found))
        assert len(texts) == 1  # what is measured changes no name
        for each in found:
            seen[each.text].add(each.verdict)
        missing = [f"{each.text} {why}" for each in found if (why := lacking(each, seen[each.text]))]
        if number > 20 and not missing:
            break
    assert missing == []


@every
def test_what_hangs_on_a_rate_at_the_edge_of_its_grid_says_so(ran: Run, name: str) -> None:
    """Whatever changes with the rate that is picked bears no verdict when that is the first or the last."""
    experiment, tiny = load(name), ran(name)
    if len(getattr(tiny.settings, "rates", ())) < 2:
        return
    with np.errstate(all="ignore"):
        first, last = (
            experiment.conclude(tiny.settings, picking(experiment, tiny.settings, tiny.outcomes, last=last)).statements
            for last in (False, True)
        )
    changing = False
    for one, other in zip(first, last, strict=True):
        if not np.isclose(one.effect.value, other.effect.value, rtol=1e-6, equal_nan=True):
            assert "lies at the edge of its grid" in one.effect.obstacle, one.text
            assert "lies at the edge of its grid" in other.effect.obstacle, other.text
            changing = True
    said = re.search(r"the best of (\d+) rates", tiny.conclusion.table.caption)
    assert (said is not None and int(said[1]) == len(tiny.settings.rates)) or not changing


@every
def test_what_is_compared_of_networks_that_only_guess_bears_no_verdict(ran: Run, name: str) -> None:
    """Numbers of networks that learn at no rate are evidence that they do not learn, and of nothing else."""
    experiment, tiny = load(name), ran(name)
    if len(getattr(tiny.settings, "rates", ())) < 2:
        return
    with np.errstate(all="ignore"):
        first, last, guessing = (
            experiment.conclude(
                tiny.settings, picking(experiment, tiny.settings, tiny.outcomes, last=last, learns=learns)
            ).statements
            for last, learns in ((False, True), (True, True), (False, False))
        )
    for one, other, statement in zip(first, last, guessing, strict=True):
        if np.isclose(one.effect.value, other.effect.value, rtol=1e-6, equal_nan=True):
            continue  # hangs on no rate that is picked
        claimed = re.search(r"does not train|near chance|stops the network from training", statement.text)
        assert claimed or statement.effect.obstacle, statement.text


@every
def test_somebody_says_every_statement(ran: Run, name: str) -> None:
    experiment = load(name)
    for statement in ran(name).conclusion.statements:
        says = statement.says or experiment.SAYS
        assert re.search(r"\b(19|20)\d\d\b|^teaching material|^textbooks|documentation of normwise", says), says
        assert not re.search(r"nobody|hope|implies|for comparison|often taken", says)


@every
def test_a_size_that_a_name_holds_is_what_the_rule_asks_for(ran: Run, name: str) -> None:
    """A statement of "at least so much" is refuted by less, and not merely not as large as required."""
    for statement in ran(name).conclusion.statements:
        if re.search(r"at least (\d|a |ten|half)|at most (\d|a |half)|reach(es)? 0?\.\d", statement.text):
            assert re.match(r"(reproduced: the 95 % interval|exact)", statement.rule), statement.text


@every
def test_experiments_say_what_they_are_measured_on(name: str) -> None:
    experiment: Any = load(name)
    assert experiment.DATA
    assert experiment.ARCHITECTURE
    assert isinstance(experiment.REGIME, Regime)
    if getattr(experiment, "TESTS", False):
        assert DIGITS in experiment.DATA
    for setting, settings in neighbours_of(experiment).items():
        assert setting in NEIGHBOURS
        assert settings != experiment.Settings()


@every
def test_the_rates_of_a_grid_are_evenly_spaced_and_there_are_enough_of_them(name: str) -> None:
    """An arm whose best rates lie where the grid is fine must not have more to choose from than another."""
    experiment: Any = load(name)
    for settings in (experiment.Settings(), getattr(experiment, "FULL", None)):
        rates = np.array(getattr(settings, "rates", ()))
        if len(rates) < 2:
            continue
        factors = rates[1:] / rates[:-1]
        assert factors.max() / factors.min() < 1.6, rates
        assert factors.max() <= 5.1
        assert len(rates) >= 3


@every
def test_every_number_has_a_noun(ran: Run, name: str) -> None:
    units = {statement.text: statement.effect.unit for statement in ran(name).conclusion.statements}
    assert not {text: unit for text, unit in units.items() if unit in ("", "ratio")}
