"""The cost of a fault in the user's own numbers, where a loss or a metric was given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normwise.doctor.finding import Cost
from normwise.facts import ModelFacts


def cost_of(facts: ModelFacts) -> Cost | None:
    """The metric, or else the loss, as the model is and with the statistics of these data; None without either."""
    if facts.stored is None or facts.recalibrated is None:
        return None
    for of in ("metric", "loss"):
        now, then = getattr(facts.stored, of), getattr(facts.recalibrated, of)
        if now is not None and then is not None:
            return Cost(of, now, then)
    return None


def not_told(facts: ModelFacts, given: Iterable[str], *, with_targets: bool) -> dict[str, str]:
    """The loss and the metric that were given, and of which no number is known -> why.

    Args:
        facts: what was observed.
        given: ``"loss"``, ``"metric"`` or both.
        with_targets: whether some batch has targets.
    """
    found: dict[str, str] = {}
    for name in given:
        if not with_targets:
            found[name] = f"the batches have no targets, so that {name} was not called"
        elif facts.stored is not None and getattr(facts.stored, name) is None:
            found[name] = f"the {name} is NaN or infinite, whatever the statistics are"
    return found


def without_what_is_no_number(facts: ModelFacts) -> ModelFacts:
    """The facts without a loss or a metric that is NaN or infinite whatever the statistics are: it tells nothing."""
    for of in ("loss", "metric"):
        other = [getattr(each, of) for each in (facts.recalibrated, facts.by_batch) if each is not None]
        if not other or any(value is None or np.isfinite(value) for value in other):
            continue
        nothing = {of: None, **({"losses": ()} if of == "loss" else {})}
        states = ("stored", "recalibrated", "by_batch", "crossed")
        known = {name: outcome for name in states if (outcome := getattr(facts, name)) is not None}
        facts = replace(facts, **{name: replace(outcome, **nothing) for name, outcome in known.items()})
    return facts
