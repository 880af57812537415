"""What a fault costs in the user's own numbers, where a loss or a metric was given."""

from __future__ import annotations

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
