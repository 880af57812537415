"""Which normalization suits the user's own model and data: successive halving, then paired seeds on a test split.

Every arm begins with a short training. Of each round the better half on validation rows goes on to the next, with
twice as many steps and one seed more; at least the best arm of the model's own batch norm and the best arm of another
normalizer stay. The last two are trained anew over several seeds and compared on rows that chose nothing.

References:
    K. Jamieson and A. Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, 2016.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from normwise.errors import NormwiseError
from normwise.lab.compare_training import Arm, Data, Make, score
from normwise.lab.results import Estimate
from normwise.lab.statistics import difference

OWN = "batch"
FIRST_STEPS = 20
"""Fewer steps tell nothing of an arm."""
FINAL_SEEDS = 5
FINAL_SHARE = 0.5
"""Of the budget, for the last comparison."""


class NothingTrained(NormwiseError):
    """Every arm's loss became infinite or NaN."""


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Args:
        recommendation: one sentence.
        visible: whether a difference is.
        effect: the best other normalizer minus the model's own batch norm, on test rows, paired by seed.
        best: the best arm of another normalizer, on validation rows.
        own: the best arm with batch norm.
        rounds: of each round, its steps and every arm with its validation score.
        final: the test scores of both, one per seed, and the steps.
    """

    recommendation: str
    visible: bool
    effect: Estimate
    best: Arm
    own: Arm
    rounds: tuple[tuple[int, tuple[tuple[Arm, float | None], ...]], ...]
    final: tuple[int, tuple[float, ...], tuple[float, ...]]


def compare(
    make: Make,
    data: Data,
    *,
    normalizers: Sequence[str],
    rates: Sequence[float],
    batches: Sequence[int],
    budget: float,
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Compare normalizers in the places of a model's batch norms.

    Args:
        make: a new model at each call, initialized from torch's generator.
        data: rows that are split into training, validation and test by the seed.
        normalizers: names in ``compare_layers.NORMALIZERS``, ``"batch"`` and another one at least.
        rates: learning rates.
        batches: sizes of the batches.
        budget: seconds.
        tell: is told what happens, a line at a time.
        clock: seconds, from any moment on.

    Raises:
        NothingTrained: no arm of batch norm, or of the others, had a finite loss.
        NormwiseError: the budget is too small, or the model cannot be trained on the data.
    """
    if OWN not in normalizers or len(set(normalizers)) < 2:
        raise NormwiseError(f"a comparison is of 'batch' with others: got {', '.join(normalizers)}; name both.")
    arms = [Arm(*each) for each in product(dict.fromkeys(normalizers), rates, batches)]
    began = clock()
    step = _seconds_per_step(make, data, arms, clock)
    rounds = max(1, math.ceil(math.log2(len(arms) / 2)))
    # a round costs as much as the first: half the arms, twice the steps
    least = step * FIRST_STEPS * len(arms) * rounds / (1 - FINAL_SHARE)
    if budget < least:
        raise NormwiseError(
            f"the budget of {budget:.0f} s is too small for {len(arms)} arms, which need about {math.ceil(least)} s: "
            "give more, or fewer normalizers, rates or batch sizes."
        )
    steps = int(budget * (1 - FINAL_SHARE) / (step * len(arms) * rounds))
    seen, left = [], arms
    for round_ in range(rounds):
        scores = {arm: score(make, data, arm, steps, seed=round_)[0] for arm in left}
        seen.append((steps, tuple((arm, None if math.isnan(found) else found) for arm, found in scores.items())))
        tell(f"{len(left)} arms, {steps} steps each: best is {max(left, key=lambda arm: _ranked(scores[arm])).words()}")
        left = _better_half(scores)
        steps *= 2
    last = seen[-1][1]
    own, best = (_best(last, own=own, rates=rates) for own in (True, False))
    left_over = max(budget - (clock() - began), 0.0)
    steps = max(FIRST_STEPS, min(steps, int(left_over / (step * 2 * FINAL_SEEDS))))
    finals = {arm: [score(make, data, arm, steps, seed=100 + n)[1] for n in range(FINAL_SEEDS)] for arm in (best, own)}
    effect = difference(np.array(finals[best]), np.array(finals[own]), "points" if data.classes else "mean square")
    visible = effect.low > 0 or effect.high < 0
    return Comparison(
        _sentence(effect, best, own, visible=visible, steps=steps),
        visible,
        effect,
        best,
        own,
        tuple(seen),
        (steps, tuple(finals[best]), tuple(finals[own])),
    )


def _seconds_per_step(make: Make, data: Data, arms: Sequence[Arm], clock: Callable[[], float]) -> float:
    """The mean over normalizers, after a warm-up; also finds out in seconds what cannot be trained at all."""
    one_each = list({arm.normalizer: arm for arm in arms}.values())
    for arm in one_each:
        score(make, data, arm, 1, seed=0)
    began = clock()
    for arm in one_each:
        score(make, data, arm, 3, seed=0)
    return max((clock() - began) / (3 * len(one_each)), 1e-6)


def _ranked(found: float) -> float:
    return -math.inf if math.isnan(found) else found


def _better_half(scores: dict[Arm, float]) -> list[Arm]:
    """The better half, with the best arm of batch norm and the best of the others in any case."""
    ranked = sorted(scores, key=lambda arm: _ranked(scores[arm]), reverse=True)
    kept = ranked[: math.ceil(len(ranked) / 2)]
    for own in (True, False):
        if not any((arm.normalizer == OWN) is own for arm in kept):
            kept.append(next(arm for arm in ranked if (arm.normalizer == OWN) is own))
    return kept


def _best(last: Sequence[tuple[Arm, float | None]], *, own: bool, rates: Sequence[float]) -> Arm:
    found = [(value, arm) for arm, value in last if value is not None and (arm.normalizer == OWN) is own]
    if not found:
        who = "batch norm" if own else "the other normalizers"
        raise NothingTrained(
            f"no arm of {who} trained: the loss became infinite or NaN at every rate from {min(rates):g} to "
            f"{max(rates):g}: try smaller rates, and look at the data for values that are not finite."
        )
    return max(found, key=lambda pair: pair[0])[1]


def _sentence(effect: Estimate, best: Arm, own: Arm, *, visible: bool, steps: int) -> str:
    numbers = f"{effect.value:+.3g} {effect.unit}, 95 % interval {effect.low:+.3g} to {effect.high:+.3g}"
    over = f"{effect.n} paired seeds of {steps} steps"
    if not visible:
        return f"No difference is visible: {best.words()} against {own.words()}: {numbers}, {over}; keep batch norm."
    winner, other = (best, own) if effect.low > 0 else (own, best)
    return f"Take {winner.words()}: {best.words()} minus {own.words()} is {numbers}, {over} ({other.normalizer} loses)."
