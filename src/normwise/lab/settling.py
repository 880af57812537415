"""Checks that a rule's answer for a run may be a verdict, and that two runs and their neighbours agree on it.

Within one run (``settled``): fewer than ``FEW`` seeds give no verdict, nor does an estimate with an obstacle, as a rate
that was picked at the edge of its grid; nothing is contradicted by fewer than ``MANY`` seeds, nor outside the regime
in which it was claimed. Over runs (``agreed``): a verdict counts when the run at other seeds has the same, and when no
neighbouring setting, of the rates, the looks or the width, turns it; and only a claim with a published source is
contradicted, because the lab chose how to measure what has none. Over a page (``discoveries``): how many verdicts
are left at a rate of false ones of 5 %, by the procedure of Benjamini and Hochberg.

References:
    Y. Benjamini and Y. Hochberg, Controlling the False Discovery Rate, Journal of the Royal Statistical Society B 57,
    1995.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from normwise.lab.results import Conclusion, Regime, Statement, Verdict

FEW = 5
"""Seeds that any verdict takes."""
MANY = 10
"""Seeds that it takes to contradict a claim."""
DECIDED = (Verdict.REPRODUCED, Verdict.EXACT, Verdict.SMALLER, Verdict.CONTRADICTED, Verdict.ELSEWHERE)
"""Verdicts that take a second run, and that a neighbouring setting can turn; "not visible" claims nothing."""
FOUND = (Verdict.REPRODUCED, Verdict.EXACT, Verdict.CONTRADICTED, Verdict.ELSEWHERE)
"""Verdicts that chance alone can give, where many statements are judged."""
LEVEL = 0.05
TAUGHT = ("teaching material", "textbooks")
"""The sources of what is taught and of which no publication is known that claims it."""


def settled(conclusion: Conclusion, regime: Regime) -> Conclusion:
    """The conclusion of one run, in which every verdict is one that a single run may give.

    Args:
        conclusion: what the rules say.
        regime: of the statements that name none.
    """
    return replace(
        conclusion, statements=tuple(_settled(each, each.regime or regime) for each in conclusion.statements)
    )


def _settled(statement: Statement, regime: Regime) -> Statement:
    n, found = statement.effect.n, statement.verdict
    verdict, why = found, ""
    if n < FEW:
        verdict, why = Verdict.OPEN, f"preliminary: {n} seeds, and a verdict takes {FEW}"
    elif statement.effect.obstacle:
        verdict, why = Verdict.OPEN, statement.effect.obstacle
    elif found is Verdict.CONTRADICTED and regime is Regime.ANOTHER:
        verdict = Verdict.ELSEWHERE
    elif found is Verdict.CONTRADICTED and n < MANY:
        verdict, why = Verdict.OPEN, f"against the claim in {n} seeds, and to contradict takes {MANY}"
    return replace(statement, regime=regime, verdict=verdict, why=why)


def agreed(
    first: Statement,
    second: Statement | None,
    neighbours: Mapping[str, Statement],
    stated: Collection[str] = (),
    says: str = "",
) -> Statement:
    """The statement of the first run with the verdict that all runs bear.

    Args:
        first: of the first run.
        second: the same one at other seeds; None where there was no such run.
        neighbours: the same one at neighbouring settings, by the name of the setting.
        stated: the neighbouring settings that the experiment has, all of which it takes to contradict a claim.
        says: the source of a statement that names none of its own.
    """
    if first.verdict is Verdict.OPEN or (second is None and first.verdict not in DECIDED):
        return first
    if _compares_nothing(first):
        return replace(first, verdict=Verdict.OPEN, why="both sides are the same in every seed")
    if second is None:
        return replace(first, verdict=Verdict.OPEN, why="not yet confirmed: no second run at other seeds")
    if second.verdict is not first.verdict:
        told = second.why or second.verdict.value
        return replace(first, verdict=Verdict.OPEN, why=f"{first.verdict.value} at first, then {told}")
    if first.verdict not in DECIDED:
        return first
    turned = [name for name, each in neighbours.items() if not stable(first, each)]
    if turned:
        words = " and ".join(turned)
        return replace(first, verdict=Verdict.OPEN, why=f"{first.verdict.value}, which changes with the {words}")
    untried = [name for name in stated if name not in neighbours]
    if first.verdict is Verdict.CONTRADICTED and untried:
        why = f"against the claim in both runs, and not yet tried with another {' and '.join(untried)}"
        return replace(first, verdict=Verdict.OPEN, why=why)
    if first.verdict is Verdict.CONTRADICTED and (first.says or says) in TAUGHT:
        why = "against what is taught in both runs, and no published source was found that claims it"
        return replace(first, verdict=Verdict.OPEN, why=why)
    return replace(first, p=max(first.p, second.p))


def _compares_nothing(statement: Statement) -> bool:
    """True if no seed shows a difference, as between two networks that learn all there is to learn."""
    effect, same = statement.effect, 1.0 if statement.effect.log else 0.0
    return statement.verdict is not Verdict.EXACT and effect.low == effect.value == effect.high == same


def stable(first: Statement, neighbour: Statement) -> bool:
    """True if a neighbouring setting agrees with the first run, at least by its estimate where seeds are few."""
    if neighbour.effect.obstacle:
        return True  # it says nothing
    return neighbour.verdict is first.verdict or neighbour.tends is first.tends


def discoveries(statements: Sequence[Statement]) -> set[int]:
    """The places of the statements that keep their verdict when all statements of the page are taken into account.

    Identities keep theirs: they hold or they do not. What is undecided is no discovery, but is counted among the tests.
    """
    tested = [place for place, each in enumerate(statements) if not math.isnan(each.p)]
    order = sorted(tested, key=lambda place: statements[place].p)
    below = [k for k, place in enumerate(order, start=1) if statements[place].p <= LEVEL * k / len(tested)]
    kept = set(order[: max(below, default=0)])
    exact = {place for place, each in enumerate(statements) if math.isnan(each.p)}
    return {place for place in kept | exact if statements[place].verdict in FOUND}
