"""The decision in words, and the sentences behind it; all of them follow from the numbers."""

from __future__ import annotations

import math

from normwise.lab.comparison.decision import standing, visible
from normwise.lab.comparison.found import Decision, Finalist, Needed
from normwise.lab.comparison.needed import MOST_TIMES
from normwise.lab.comparison.trainer import STATISTICS
from normwise.lab.results import Estimate


def recommend(
    decision: Decision,
    effect: Estimate,
    best: Finalist,
    own: Finalist,
    *,
    margin: float,
    constant: float,
    needed: Needed | None,
) -> str:
    """One sentence: what to do, and why.

    Args:
        decision: what the comparison came to.
        effect: the best other arm minus the model as it was built.
        best: the best other arm.
        own: the model as it was built.
        margin: of practical indifference, in the unit of the effect.
        constant: score of one constant answer.
        needed: what it would take to decide, where it is undecided.
    """
    if decision is Decision.FAILED:
        return _failed(best, own, constant, effect.unit)
    if decision is Decision.AT_CHANCE:
        scores = ", ".join(f"{each.arm.words()} has {_score(each)}" for each in (best, own))
        return (
            f"No recommendation, as both models are at chance: {scores}, and neither is visibly better than "
            f"{_constant(constant, effect.unit)}; give a larger --budget or other --rates, or look at the data."
        )
    pair = f"{best.arm.words()} against {own.arm.words()}"
    if decision is Decision.EQUIVALENT:
        seen = ", a difference that is visible but too small to matter" if visible(effect) else ""
        return (
            f"Equivalent within {_margin(margin, effect.unit)}: {pair}: {number(effect)}{seen}; "
            f"keep the model's batch norm as it is{_then(own)}."
        )
    if decision is Decision.UNDECIDED:
        if math.isnan(effect.value):
            return f"Undecided: {pair}: one seed has no interval; give --seeds 5 or more."
        return (
            f"Undecided: {pair}: {number(effect)}, an interval that contains 0 and is not within "
            f"{_margin(margin, effect.unit)}; {_needed(needed)}{_meanwhile(own)}."
        )
    if effect.low > 0:
        return f"Take {_words(best)}: it is better, {number(effect)} against {own.arm.words()}."
    return f"Keep {_words(own)}: {best.arm.words()} is worse, {number(effect)} against it."


def evidence(
    effect: Estimate,
    finalists: tuple[Finalist, Finalist],
    *,
    arms: int,
    steps: int,
    rows: int,
    margin: float,
    constant: float,
) -> list[str]:
    """Sentences on the seeds, rows and arms compared, and on the scores of the two with each inference statistics."""
    lines = [
        f"{effect.n} paired seeds of {steps} steps on {rows} test rows; the 95 % intervals are for other seeds and "
        "other rows.",
        f"The two were chosen from {arms} settings on validation rows; the test rows had no part in that.",
        f"Chance level: {_constant(constant, effect.unit)}.",
        f"Differences within {_margin(margin, effect.unit)} count as none (--margin).",
        f"{'Right answers' if effect.unit == 'points' else 'The error'} on the test rows with each kind of statistics "
        "at inference; a star marks the kind that was chosen on validation rows:",
    ]
    for each in finalists:
        for way, estimate in each.test.items():
            name = STATISTICS.get(way, "no statistics of its own")
            words = "not finite for every seed" if estimate is None else number(estimate, sign=False)
            against = each.against_running.get(way)
            word = "" if against is None else standing(against, margin)
            change = "" if against is None else f" ({word}, {number(against)} against running averages)"
            chosen = way == each.statistics
            chance = ", not visibly better than chance" if chosen and not (each.failed or each.learned) else ""
            lines.append(f"{'*' if chosen else ' '} {each.arm.words()}, {name}: {words}{change}{chance}")
    return lines


def number(estimate: Estimate, *, sign: bool = True) -> str:
    """An estimate with its interval; errors are shown as errors, the lower the better.

    Args:
        estimate: of scores or of their differences, the higher the better.
        sign: whether to show a plus too, for a difference.

    Example:
        >>> number(Estimate(1.25, 0.5, 2.0, 5, "points"))
        '+1.25 points [+0.5, +2]'
        >>> number(Estimate(1.25, 0.5, 2.0, 5, "mean square"))
        '-1.25 of mean square error [-2, -0.5]'
    """
    if math.isnan(estimate.value):
        return "no interval from one seed"
    form = "+.3g" if sign else ".4g"
    value, low, high, unit = estimate.value, estimate.low, estimate.high, estimate.unit
    if unit == "mean square":
        value, low, high = 0.0 - value, 0.0 - high, 0.0 - low  # and not -value, which makes -0 of 0
        unit = "of mean square error" if sign else "mean square error"
    return f"{value:{form}} {unit} [{low:{form}}, {high:{form}}]"


def duration(seconds: float) -> str:
    """A time as ``--budget`` takes it, rounded up.

    Example:
        >>> duration(61.2), duration(601), duration(9000)
        ('62s', '11m', '2.5h')
    """
    if seconds <= 600:
        return f"{math.ceil(seconds)}s"
    return f"{math.ceil(seconds / 60)}m" if seconds <= 7200 else f"{math.ceil(seconds / 360) / 10:g}h"


def _needed(found: Needed | None) -> str:
    if found is None:
        return "nobody can tell what it would take to decide"
    if found.rows is not None:
        return (
            "more seeds cannot decide it, as the test rows are too few: it would take about "
            f"{_times(found.rows)} as many rows of data"
        )
    if found.seeds is None or found.seconds is None or found.times is None:
        return f"to decide it would take more than {MOST_TIMES} times the budget or the rows"
    if found.times < 1.05:
        return f"the same budget is enough to decide with more paired seeds: --seeds {found.seeds}"
    options = f"--budget {duration(found.seconds)} --seeds {found.seeds}"
    return f"to decide it needs about {_times(found.times)} the budget: {options}"


def _times(number: float) -> str:
    return f"{number:.1f} times" if number < 10 else f"{number:.0f} times"


def _failed(best: Finalist, own: Finalist, constant: float, unit: str) -> str:
    whys = [f"{each.arm.words()} {_why(each)}" for each in (best, own) if each.failed]
    if len(whys) == 2:
        return f"No recommendation, as both models failed: {' and '.join(whys)}; try smaller --rates."
    left = own if best.failed else best
    if not left.learned:
        return (
            f"No recommendation: {whys[0]}, and {left.arm.words()} is not visibly better than "
            f"{_constant(constant, unit)}; try smaller --rates or a larger --budget."
        )
    return f"{'Keep' if left is own else 'Take'} {_words(left)}: {whys[0]}."


def _why(each: Finalist) -> str:
    if each.error:
        return f"has seeds that could not be trained ({each.error.rstrip('.')})"
    return "has seeds whose loss became infinite or NaN"


def _constant(score: float, unit: str) -> str:
    if unit == "points":
        return f"always answering the most common class, which is right for {score:.4g} % of the test rows"
    return f"always answering the mean of the targets, whose mean square error is {-score:.4g}"


def _margin(margin: float, unit: str) -> str:
    if unit == "points":
        return f"{margin:.3g} {'point' if margin == 1 else 'points'}"
    return f"{margin:.3g} of mean square error"


def _score(each: Finalist) -> str:
    estimate = each.test[each.statistics]
    return "no finite score" if estimate is None else number(estimate, sign=False)


def _words(each: Finalist) -> str:
    return each.arm.words() + _then(each)


def _meanwhile(own: Finalist) -> str:
    more = own.statistics == "recalibrated"  # which was visibly better on validation rows, whatever the other arm is
    return "; in any case, recalibrate the batch norms' statistics after training" if more else ""


def _then(each: Finalist) -> str:
    return ", and recalibrate its statistics after training" if each.statistics == "recalibrated" else ""
