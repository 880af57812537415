"""The conclusions of one run, the agreement of two runs and their neighbours, and what is left of a whole page."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from normwise.lab.intervals import mean
from normwise.lab.results import Conclusion, Regime, Statement, Table, Verdict
from normwise.lab.settling import agreed, discoveries, settled
from normwise.lab.verdict import AtLeast, Exact, judge


def found(value: float, n: int = 10, spread: float = 0.1, **more: object) -> Statement:
    """Points of some seeds with that mean."""
    points = value + spread * np.linspace(-1, 1, n)
    return judge("It is more.", mean(points, "points"), AtLeast(1.0), **more)  # type: ignore[arg-type]  # of judge


def settle(statement: Statement, regime: Regime = Regime.OWN) -> Statement:
    return settled(Conclusion((statement,), Table("", (), ()), ()), regime).statements[0]


@pytest.mark.parametrize("value", [2.0, 0.5, -2.0])
def test_fewer_than_five_seeds_are_preliminary(value: float) -> None:
    for n in (2, 3, 4):
        given = settle(found(value, n))
        assert (given.verdict, given.why) == (
            Verdict.OPEN,
            f"preliminary: {n} seeds, and a verdict takes 5",
        )
    assert settle(found(2.0, 5)).verdict is Verdict.REPRODUCED


def test_a_claim_is_contradicted_by_ten_seeds_in_its_own_regime() -> None:
    assert settle(found(-2.0, 10)).verdict is Verdict.CONTRADICTED
    few = settle(found(-2.0, 9))
    assert (few.verdict, few.why) == (Verdict.OPEN, "against the claim in 9 seeds, and to contradict takes 10")
    assert settle(found(-2.0, 10), Regime.ANOTHER).verdict is Verdict.ELSEWHERE
    assert settle(found(2.0, 10), Regime.ANOTHER).verdict is Verdict.REPRODUCED


def test_a_statement_may_be_of_another_regime_than_its_experiment() -> None:
    assert settle(found(-2.0, regime=Regime.ANOTHER), Regime.OWN).verdict is Verdict.ELSEWHERE
    own = settle(found(-2.0, regime=Regime.OWN), Regime.ANOTHER)
    assert (own.verdict, own.regime) == (Verdict.CONTRADICTED, Regime.OWN)


def test_an_obstacle_leaves_no_verdict_and_is_named() -> None:
    given = settle(found(2.0, obstacle="the best rate lies at the edge of its grid"))
    assert (given.verdict, given.why) == (Verdict.OPEN, "the best rate lies at the edge of its grid")


def test_a_verdict_counts_where_both_runs_have_it() -> None:
    first = settle(found(2.0))
    assert agreed(first, settle(found(2.1)), {}).verdict is Verdict.REPRODUCED
    alone = agreed(first, None, {})
    assert (alone.verdict, alone.why) == (Verdict.OPEN, "not yet confirmed: no second run at other seeds")
    for other, words in ((0.5, "not as large as required"), (-2.0, "contradicted")):
        apart = agreed(first, settle(found(other)), {})
        assert (apart.verdict, apart.why) == (Verdict.OPEN, f"reproduced at first, then {words}")
    short = agreed(first, settle(found(2.0, 3)), {})
    assert short.why == "reproduced at first, then preliminary: 3 seeds, and a verdict takes 5"


def test_two_sides_that_are_the_same_in_every_seed_compare_nothing() -> None:
    same = settle(found(0.0, spread=0.0))
    given = agreed(same, same, {})
    assert (same.verdict, given.verdict) == (Verdict.SMALLER, Verdict.OPEN)
    assert given.why == "both sides are the same in every seed"
    one = replace(same, effect=replace(same.effect, value=1.0, low=1.0, high=1.0, log=True))
    assert agreed(one, one, {}).why == given.why
    identity = settle(judge("It is.", mean(np.zeros(10), "points"), Exact(0.0)))
    assert agreed(identity, identity, {}).verdict is Verdict.EXACT


def test_only_a_published_claim_is_contradicted() -> None:
    """The lab alone made measurable what is taught without a source."""
    against = settle(found(-2.0))
    assert agreed(against, against, {}, says="Yang et al. 2019").verdict is Verdict.CONTRADICTED
    for own, of_the_experiment in (("", "teaching material"), ("textbooks", "Yang et al. 2019")):
        given = agreed(replace(against, says=own), against, {}, says=of_the_experiment)
        assert (given.verdict, given.p) == (Verdict.OPEN, against.p)
        assert given.why == "against what is taught in both runs, and no published source was found that claims it"
    for source in ("Chollet 2017", "textbooks; LeCun et al. 1998, section 4.3"):
        named = replace(against, says=source)
        assert agreed(named, against, {}, says="teaching material").verdict is Verdict.CONTRADICTED
    held = settle(found(2.0))
    assert agreed(held, held, {}, says="teaching material").verdict is Verdict.REPRODUCED


def test_what_is_undecided_stays_so_without_a_second_run() -> None:
    unsure = settle(found(1.0, spread=9.0))
    assert agreed(unsure, None, {}) == unsure
    assert unsure.verdict is Verdict.NOT_VISIBLE


def test_the_order_of_two_runs_does_not_matter() -> None:
    sure, unsure, edge = settle(found(2.0)), settle(found(1.0, spread=9.0)), settle(found(2.0, obstacle="no plateau"))
    for first, second in ((sure, unsure), (unsure, sure), (sure, edge), (edge, sure), (unsure, edge), (edge, unsure)):
        assert agreed(first, second, {}).verdict is Verdict.OPEN
    assert agreed(unsure, sure, {}).why == "not visible at this scale at first, then reproduced"
    assert agreed(unsure, unsure, {"grid": sure}) == unsure


def test_a_neighbouring_setting_that_turns_a_verdict_takes_it_away() -> None:
    first, again = settle(found(2.0)), settle(found(2.1))
    turned = agreed(first, again, {"grid": settle(found(2.0)), "width": settle(found(0.2))})
    assert (turned.verdict, turned.why) == (Verdict.OPEN, "reproduced, which changes with the width")
    few = {"grid": settle(found(2.0, 3))}  # its estimate says the same, if its seeds are too few to say it
    assert agreed(first, again, few).verdict is Verdict.REPRODUCED
    edge = {"grid": settle(found(-2.0, obstacle="the best rate lies at the edge of its grid"))}
    assert agreed(first, again, edge).verdict is Verdict.REPRODUCED


def test_to_contradict_takes_all_neighbouring_settings() -> None:
    first, again = settle(found(-2.0)), settle(found(-2.1))
    assert agreed(first, again, {}).verdict is Verdict.CONTRADICTED  # an experiment that has none
    one = agreed(first, again, {"grid": settle(found(-2.0))}, ("grid", "width"))
    assert one.why == "against the claim in both runs, and not yet tried with another width"
    every = {name: settle(found(-2.0)) for name in ("grid", "width")}
    assert agreed(first, again, every, ("grid", "width")).verdict is Verdict.CONTRADICTED


def test_the_procedure_of_benjamini_and_hochberg() -> None:
    levels = (0.001, 0.012, 0.014, 0.049, 0.6)  # 5 % times 1/5, 2/5, ... 5/5: the first three are below
    statements = [replace(found(2.0), p=p) for p in levels]
    assert discoveries(statements) == {0, 1, 2}
    assert discoveries([replace(found(2.0), p=0.03)] * 20) == set(range(20))
    assert discoveries([replace(found(2.0), p=p) for p in (0.03, *[0.9] * 19)]) == set()
    assert discoveries([]) == set()


def test_identities_are_no_matter_of_chance_and_what_is_undecided_is_no_discovery() -> None:
    identity = judge("It is.", mean(np.zeros(5), ""), Exact(0.0))
    assert math.isnan(identity.p)
    undecided = replace(found(2.0), p=0.001, verdict=Verdict.OPEN)
    assert discoveries([identity, undecided]) == {0}
