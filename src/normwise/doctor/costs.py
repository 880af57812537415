"""The cost of a fault in the user's own numbers, where a loss or a metric was given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from normwise.doctor.distances import (
    LOSS,
    LOSS_AGREES,
    LOSS_ALONE,
    LOSS_CLEARLY,
    METRIC,
    METRIC_CLEARLY,
    harm,
    metric_change,
)
from normwise.doctor.finding import Cost, Skipped, named
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


def not_a_fault(check: str, names: Sequence[str], facts: ModelFacts) -> Skipped:
    """Say for a check that statistics of layers are off, where the loss or metric decides that it costs nothing.

    Args:
        check: its name.
        names: of the layers, as ``normwise.doctor.distances.without_cost`` gives them.
        facts: with a loss or a metric.
    """
    done = harm(facts)
    assert done is not None  # or nothing was taken away
    change = (
        f"changes by {done:.2g} of its spread" if np.isfinite(done) else "changes from or to NaN or infinite values"
    )
    return Skipped(
        check,
        f"the output {change} with the statistics of these data, but {_no_cost(facts)}",
        f"as a fault of {named(names)}",
    )


def _no_cost(facts: ModelFacts) -> str:
    """The clause about the numbers by which ``normwise.doctor.distances.costs`` says that there is no cost."""
    now, then = facts.stored, facts.recalibrated
    assert now is not None  # or nothing was decided
    assert then is not None

    def loss(limit: float) -> str:
        if now.loss is None or then.loss is None:
            return ""
        if not then.loss <= now.loss:
            return f"the loss grows from {now.loss:.3g} to {then.loss:.3g}"
        return f"the loss only from {now.loss:.3g} to {then.loss:.3g}, which is less than {limit:g} times"

    if now.metric is None or then.metric is None:
        return loss(LOSS_ALONE)
    if metric_change(now.metric, then.metric) <= METRIC:
        less = f"the metric only from {now.metric:.3g} to {then.metric:.3g}, which is less than {METRIC:.0%}"
        return ", and ".join(filter(None, [less, loss(LOSS_CLEARLY)]))
    limit = LOSS_AGREES if metric_change(now.metric, then.metric) >= METRIC_CLEARLY else LOSS
    return f"{loss(limit)}, though the metric changes from {now.metric:.3g} to {then.metric:.3g}"


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
