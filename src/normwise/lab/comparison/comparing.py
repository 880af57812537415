"""Compares normalizations on the user's own model and data: successive halving, then paired seeds on a test split."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from normwise.errors import NormwiseError
from normwise.lab.comparison import finals
from normwise.lab.comparison.arms import AS_BUILT, NORMALIZERS, Arm, Trial, arms
from normwise.lab.comparison.choosing import trainer_for
from normwise.lab.comparison.decision import MARGIN, decide, margin_of, visible
from normwise.lab.comparison.found import Comparison, Decision, NothingTrained, Round
from normwise.lab.comparison.halving import best_of, rounds_of, seconds_needed, series, steps_of, still_rising
from normwise.lab.comparison.ledger import Ledger
from normwise.lab.comparison.needed import needed
from normwise.lab.comparison.recommendation import evidence, recommend
from normwise.lab.comparison.rows import Rows
from normwise.lab.comparison.trainer import WARM_UP, Batches

PROBE_STEPS = 4
"""Enough to know what a step costs, and whether a normalizer can be trained at all."""

PATIENCE = 2
"""The number of times that the steps are doubled without being better for it; once can be chance."""


def compare(
    make: Callable[[], Any],
    rows: Rows,
    *,
    budget: float,
    normalizers: Sequence[str] = NORMALIZERS,
    where: bool = True,
    rates: Sequence[float] = (0.01, 0.1, 0.5),
    batches: Sequence[int] = (32,),
    margin: float = MARGIN,
    seeds: int = finals.FEWEST_SEEDS,
    out: Path | None = None,
    identity: str = "",
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Compare normalizations in the places of a model's batch norms, and before and after their activations.

    Args:
        make: a new model of PyTorch or Keras at each call, initialized from the framework's random state.
        rows: inputs with targets; split into training, validation and test rows by the seed.
        budget: seconds for all trials, those of earlier runs with the same ``out`` included.
        normalizers: names in ``NORMALIZERS``, ``"batch"`` and another one at least.
        where: whether to move the batch norms to the other side of their activations, where that can be told.
        rates: learning rates.
        batches: sizes of the batches.
        margin: differences within it do not matter: points of accuracy, or for values of explained variance.
        seeds: paired seeds of the last comparison, at least, not below 5; up to 10 as far as the budget goes.
        out: a folder that keeps finished trials; another run, of any budget, goes on from them. None to keep nothing.
        identity: what tells the model from others of the same structure, for example its source.
        tell: is told what happens, a line at a time.
        clock: seconds, from any moment on.

    Raises:
        NothingTrained: no arm of the model as it was built, or of the others, had a finite loss.
        NormwiseError: the budget is too small, or the model cannot be trained on the rows.
    """
    chance = rows.constant_scores()
    constant = float(chance.mean())
    margin = margin_of(margin, constant, rows.unit)
    if seeds < finals.FEWEST_SEEDS:
        raise NormwiseError(
            f"an interval of 95 % needs {finals.FEWEST_SEEDS} paired seeds or more, received {seeds}: pass for example "
            f"{finals.MOST_SEEDS}."
        )
    trainer = trainer_for(make, rows, identity)
    Batches(rows.split(0)[0], max(batches), 0)  # that are not too large
    compared = arms(normalizers, trainer.where if where else (AS_BUILT,), rates, batches)
    trainer.train(WARM_UP)
    ledger = Ledger(trainer, rows, out, clock)
    compared, left_out = _without_untrainable(ledger, compared)
    last, settled = _narrowed(ledger, compared, budget, rates, seeds, tell)
    steps = last[-1].steps
    best, own = (_best(last[-1], own=own, rates=rates) for own in (False, True))
    spent = ledger.spent
    outcomes = finals.train(ledger, (best, own), steps, budget, tell, seeds)
    ours, theirs = (finals.finalist(arm, outcomes[arm], rows.unit, chance) for arm in (best, own))
    differences = finals.differences(outcomes, ours, theirs)
    effect = finals.effect(differences, len(outcomes[best]), rows.unit)
    decision = decide(effect, ours, theirs, margin)
    more = None
    if decision is Decision.UNDECIDED and differences is not None and effect.n > 1:
        pair = (ledger.spent - spent) / effect.n
        more = needed(differences, effect, margin, budget=budget, spent=spent, pair=pair)
    said: dict[str, Any] = {"margin": margin, "constant": constant}
    compared_on: dict[str, int] = {"arms": len(compared), "steps": steps, "rows": len(chance)}
    return Comparison(
        decision=decision,
        recommendation=recommend(decision, effect, ours, theirs, needed=more, **said),
        evidence=tuple(evidence(effect, (ours, theirs), **compared_on, **said)),
        visible=visible(effect),
        effect=effect,
        margin=margin,
        constant=constant,
        needed=more,
        best=ours,
        own=theirs,
        arms=len(compared),
        steps=steps,
        seeds=effect.n,
        rounds=tuple(last),
        remarks=(*trainer.remarks, *left_out, *settled),
        seconds=round(ledger.spent, 1),
        kept=ledger.kept,
        framework=trainer.framework,
    )


def _without_untrainable(ledger: Ledger, compared: list[Arm]) -> tuple[list[Arm], list[str]]:
    """Try each normalizer for a moment; the arms of those that can be trained, and a sentence for each that cannot.

    Raises:
        NormwiseError: batch norm itself cannot be trained, or nothing else can.
    """
    errors: dict[tuple[str, str], str] = {}
    kinds = {(arm.normalizer, arm.where, arm.batch): arm for arm in reversed(compared)}
    for arm in sorted(kinds.values(), key=lambda arm: not arm.own):  # what is wrong with the model is said first
        found = ledger.outcome(Trial(arm, PROBE_STEPS, 0))
        if found.error and arm.own:
            raise NormwiseError(found.error)
        if found.error:
            errors.setdefault((arm.normalizer, arm.where), found.error)
    left = [arm for arm in compared if (arm.normalizer, arm.where) not in errors]
    if all(arm.own for arm in left):
        raise NormwiseError(f"nothing is left to compare batch norm with: {next(iter(errors.values()))}")
    return left, [f"Left out: {error}" for error in errors.values()]


def _narrowed(
    ledger: Ledger,
    compared: list[Arm],
    budget: float,
    rates: Sequence[float],
    seeds: int,
    tell: Callable[[str], None],
) -> tuple[list[Round], list[str]]:
    """The rounds of the longest series that the budget is enough for, and why there was none longer."""

    def needed(level: int) -> float:
        last_steps = steps_of(level + rounds_of(len(compared)) - 1)
        return seconds_needed(ledger, compared, level) + _finals(ledger, compared, last_steps, seeds)

    least = ledger.spent + needed(0)
    if budget < least:
        raise NormwiseError(
            f"a budget of {budget:g} s is too small for {len(compared)} settings, which need about "
            f"{math.ceil(least)} s: give a larger budget, or fewer normalizers, rates, batch sizes or seeds."
        )
    level, rounds = 0, series(ledger, compared, 0, tell) or []
    for own in (True, False):  # that something trained, before more is spent
        _best(rounds[-1], own=own, rates=rates)
    flat = 0
    while budget >= ledger.spent + needed(level + 1):
        latest = budget - _finals(ledger, compared, rounds[-1].steps, seeds)
        longer = series(ledger, compared, level + 1, tell, latest)
        if longer is None:
            break
        level += 1
        if still_rising(rounds[-1], longer[-1]):
            rounds, flat = longer, 0
            continue
        flat += 1
        if flat == PATIENCE:
            words = f"The best validation scores are no higher with {longer[-1].steps} steps than with"
            return rounds, [f"{words} {rounds[-1].steps}: the rest of the budget was not used."]
    return rounds, []


def _finals(ledger: Ledger, compared: list[Arm], steps: int, seeds: int) -> float:
    return 2 * seeds * ledger.cost(compared, steps)


def _best(last: Round, *, own: bool, rates: Sequence[float]) -> Arm:
    found = best_of(last, own=own)
    if found is None:
        who = "the model as it was built" if own else "the others"
        raise NothingTrained(
            f"no arm of {who} trained: the loss became infinite or NaN at every rate from {min(rates):g} to "
            f"{max(rates):g}: try smaller rates, and look at the data for values that are too large."
        )
    return found[0]
