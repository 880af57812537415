"""The last two, trained again over several seeds: inference statistics chosen on validation rows, told on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from normwise.lab.comparison.arms import Arm, Trial
from normwise.lab.comparison.crossed import crossed_mean
from normwise.lab.comparison.found import Finalist
from normwise.lab.comparison.ledger import Ledger
from normwise.lab.comparison.trainer import Outcome, ways
from normwise.lab.intervals import difference
from normwise.lab.results import Estimate

FEWEST_SEEDS = 5
"""A bootstrap over seeds never leaves their range, which misses the mean of n of them once in 2^(n - 1)."""
MOST_SEEDS = 10
FIRST_SEED = 100
"""No round has a seed so high."""

Scores = npt.NDArray[np.float64]


def train(
    ledger: Ledger,
    finalists: Sequence[Arm],
    steps: int,
    budget: float,
    tell: Callable[[str], None],
    fewest: int = FEWEST_SEEDS,
) -> dict[Arm, list[Outcome]]:
    """Train the finalists, seed by seed, so that a run that is killed has pairs.

    Seeds beyond the fewest are a matter of the time that is left, and never of what was found.
    """
    found: dict[Arm, list[Outcome]] = {arm: [] for arm in finalists}
    at_first = ledger.spent
    for number in range(max(fewest, MOST_SEEDS)):
        pair = (ledger.spent - at_first) / max(number, 1)
        if number >= fewest and ledger.spent + pair > budget:
            break
        for arm in finalists:
            found[arm].append(ledger.outcome(Trial(arm, steps, FIRST_SEED + number, final=True)))
        tell(f"trained the last two settings for {steps} steps each, with seed {number + 1}")
    return found


def finalist(arm: Arm, outcomes: Sequence[Outcome], unit: str, constant: Scores) -> Finalist:
    """The scores of one arm over its seeds, and the inference statistics that are chosen for it.

    Args:
        arm: what was trained.
        outcomes: one per seed.
        unit: of the scores.
        constant: what one constant answer scores on each test row.
    """
    names = ways(arm, final=True)
    validation = {way: _mean([each.validation.get(way) for each in outcomes]) for way in names}
    chosen = _chosen(outcomes, validation)
    tests = {way: scores(outcomes, way) for way in names}
    running = tests.get("running")
    return Finalist(
        arm,
        chosen,
        validation,
        {way: _estimate(each, "%" if unit == "points" else unit) for way, each in tests.items()},
        {
            way: None if each is None or running is None else crossed_mean(each - running, unit)
            for way, each in tests.items()
            if way != "running" and "running" in tests
        },
        _above(tests[chosen], constant, unit),
        next((each.error for each in outcomes if each.error), ""),
    )


def scores(outcomes: Sequence[Outcome], way: str) -> Scores | None:
    """The test scores with these inference statistics, shape (seeds, rows); None if one seed was not finite."""
    found = [each.test.get(way) for each in outcomes]
    return None if any(each is None for each in found) else np.array(found, dtype=np.float64)


def differences(outcomes: Mapping[Arm, Sequence[Outcome]], best: Finalist, own: Finalist) -> Scores | None:
    """The best other arm minus the model as it was built, each with its own inference statistics.

    Returns:
        shape (seeds, rows); None if one of them was not finite.
    """
    ours, theirs = (scores(outcomes[each.arm], each.statistics) for each in (best, own))
    return None if ours is None or theirs is None else ours - theirs


def effect(found: Scores | None, seeds: int, unit: str) -> Estimate:
    """The mean of the differences, all NaN where there are none."""
    return Estimate(math.nan, math.nan, math.nan, seeds, unit) if found is None else crossed_mean(found, unit)


def _above(found: Scores | None, constant: Scores, unit: str) -> Estimate | None:
    return None if found is None else crossed_mean(found - constant, unit)


def _chosen(outcomes: Sequence[Outcome], validation: Mapping[str, float | None]) -> str:
    """The inference statistics that serve single samples; recalibrated ones where that is visibly better."""
    if "none" in validation:
        return "none"
    running, recalibrated = validation["running"], validation["recalibrated"]
    if recalibrated is None or running is None:
        return "running" if recalibrated is None else "recalibrated"
    pairs = np.array([[each.validation["recalibrated"], each.validation["running"]] for each in outcomes])
    return "recalibrated" if difference(pairs[:, 0], pairs[:, 1], "").low > 0 else "running"


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if len(found) == len(values) else None


def _estimate(values: Scores | None, unit: str) -> Estimate | None:
    return None if values is None else crossed_mean(values, unit)
