"""One sentence about what to do, and the sentences behind it; all of them follow from the numbers."""

from __future__ import annotations

import math

from normwise.lab.comparison.found import Finalist
from normwise.lab.comparison.trainer import STATISTICS
from normwise.lab.results import Estimate


def visible(effect: Estimate) -> bool:
    """Whether the interval leaves out no difference."""
    return effect.low > 0 or effect.high < 0


def recommend(effect: Estimate, best: Finalist, own: Finalist) -> str:
    """The one sentence."""
    if math.isnan(effect.value):
        lost = [each for each in (best, own) if each.test[each.statistics] is None]
        left = own if lost == [best] else best
        if len(lost) == 2:
            return "Neither is safe: both have seeds whose loss became infinite or NaN; try smaller rates."
        return f"Take {_words(left)}: {lost[0].arm.words()} has seeds whose loss became infinite or NaN."
    difference = f"{best.arm.words()} against {own.arm.words()}: {number(effect)}"
    if not visible(effect):
        return f"No difference is visible: {difference}; keep the model's batch norm as it is{_then(own)}."
    if effect.low > 0:
        return f"Take {_words(best)}: {difference}."
    return f"Keep {_words(own)}: {difference}."


def evidence(effect: Estimate, finalists: tuple[Finalist, Finalist], *, arms: int, steps: int, rows: int) -> list[str]:
    """What was compared on what, and what each of the two scored with which inference statistics."""
    lines = [
        f"{effect.n} paired seeds of {steps} steps on {rows} test rows; intervals (95 %) are for other seeds and rows.",
        f"The two were chosen from {arms} arms on validation rows; test rows chose nothing.",
    ]
    for each in finalists:
        for way, estimate in each.test.items():
            name = STATISTICS.get(way, "no statistics of its own")
            words = "not finite for every seed" if estimate is None else number(estimate, sign=False)
            against = each.against_running.get(way)
            change = "" if against is None else f" ({number(against)} against running averages{_verdict(against)})"
            chosen = "*" if way == each.statistics else " "
            lines.append(f"{chosen} {each.arm.words()}, {name}: {words}{change}")
    return lines


def number(estimate: Estimate, *, sign: bool = True) -> str:
    """An estimate with its interval.

    Example:
        >>> number(Estimate(1.25, 0.5, 2.0, 5, "points"))
        '+1.25 points [+0.5, +2]'
    """
    form = "+.3g" if sign else ".4g"
    return f"{estimate.value:{form}} {estimate.unit} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _verdict(estimate: Estimate) -> str:
    return "" if visible(estimate) else ", not visible"


def _words(each: Finalist) -> str:
    return each.arm.words() + _then(each)


def _then(each: Finalist) -> str:
    return ", and recalibrate its statistics after training" if each.statistics == "recalibrated" else ""
