"""Successive halving: of each round the better half goes on to the next, with twice as many steps.

A series of rounds begins with few steps. As long as the budget allows, another series follows that begins with twice as
many, so that there is an answer at any time and most of the budget goes to the longest series. A round's seed depends
on its steps alone: what a series has in common with the one before is not trained again.

References:
    K. Jamieson and A. Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from normwise.lab.comparison.arms import Arm, Trial
from normwise.lab.comparison.found import Round
from normwise.lab.comparison.ledger import Ledger

FIRST_STEPS = 20
"""Fewer steps tell nothing of an arm."""


def steps_of(level: int) -> int:
    """The number of steps of a trial at that level."""
    return FIRST_STEPS << level


def rounds_of(arms: int) -> int:
    """The number of rounds until two arms are left.

    Example:
        >>> rounds_of(2), rounds_of(3), rounds_of(21)
        (1, 1, 4)
    """
    return max(1, math.ceil(math.log2(arms / 2)))


def seconds_needed(ledger: Ledger, arms: Sequence[Arm], level: int) -> float:
    """The seconds that a series from this level on will take."""
    new = [arm for arm in arms if not ledger.knows(_trial(arm, level))]
    seconds = len(new) * ledger.cost(new, steps_of(level)) if new else 0.0
    left = len(arms)
    for number in range(1, rounds_of(len(arms))):
        left = max(2, math.ceil(left / 2))
        seconds += left * ledger.cost(arms, steps_of(level + number))
    return seconds


def series(
    ledger: Ledger,
    arms: Sequence[Arm],
    level: int,
    tell: Callable[[str], None],
    latest: float = math.inf,
) -> list[Round] | None:
    """One series of rounds.

    Args:
        ledger: runs the trials.
        arms: those of the first round.
        level: of the first round.
        tell: is told what happens, a line for each round.
        latest: seconds, of all trials; once they are spent it is given up.

    Returns:
        the rounds; None if it was given up.
    """
    rounds: list[Round] = []
    left = list(arms)
    for number in range(rounds_of(len(arms))):
        ranks = {}
        for arm in left:
            if ledger.spent > latest:
                return None
            ranks[arm] = ledger.outcome(_trial(arm, level + number)).rank
        steps = steps_of(level + number)
        rounds.append(Round(steps, tuple((arm, None if math.isinf(rank) else rank) for arm, rank in ranks.items())))
        best = max(left, key=lambda arm: ranks[arm])
        words = f"the best is {best.words()} ({ranks[best]:.4g})" if ranks[best] > -math.inf else "none of them trained"
        tell(f"trained {len(left)} settings for {steps} steps each; on validation rows {words}")
        left = better_half(ranks)
    return rounds


def better_half(ranks: dict[Arm, float]) -> list[Arm]:
    """The better half, with the best of the model as it was built and the best of the others in any case."""
    ranked = sorted(ranks, key=lambda arm: ranks[arm], reverse=True)
    kept = ranked[: math.ceil(len(ranked) / 2)]
    for own in (True, False):
        if not any(arm.own is own for arm in kept):
            kept.append(next(arm for arm in ranked if arm.own is own))
    return kept


def best_of(last: Round, *, own: bool) -> tuple[Arm, float] | None:
    """The best arm of the model as it was built, or of the others, in a round; None if none of them trained."""
    found = [(arm, score) for arm, score in last.scores if score is not None and arm.own is own]
    return max(found, key=lambda pair: pair[1], default=None)


def still_rising(before: Round, now: Round) -> bool:
    """True if twice as many steps made the best arm of either kind better."""
    pairs = [(best_of(before, own=own), best_of(now, own=own)) for own in (True, False)]
    return any(new is not None and (old is None or new[1] > old[1]) for old, new in pairs)


def _trial(arm: Arm, level: int) -> Trial:
    return Trial(arm, steps_of(level), level)
