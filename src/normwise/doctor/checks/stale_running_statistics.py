"""Running statistics that are not those of the layer's input.

What it finds:
    The running mean or variance of a layer is not that of the data that come into it, though batches moved it.

Why it is bad:
    In training the layer normalizes by the batch, so nothing looks wrong; at inference it shifts and scales by numbers
    that belong to other values, and everything behind it gets inputs that it was not trained on.

How it is measured:
    Each layer's input is measured with every norm on batch statistics, so that innocent layers behind a guilty one look
    innocent. A channel is wrong when the mean is off by more than the limit in standard deviations, or the variance by
    more than the limit in its base-2 logarithm, beyond three standard errors from the spread between batches. Then the
    model is run with the statistics of these data in all layers, and in one layer at a time: the share of the change of
    the output that a layer alone takes away says how guilty it is. Without a reference, statistics that are stale and
    data that have drifted cannot be told apart: if these are the data that the model was trained on, they are stale.

What to do:
    ``normwise.recalibrate(model, batches)`` with data like those that the model will meet.

References:
    Wu and Johnson, Rethinking "batch" in batch normalization, 2021, arXiv:2105.07576.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import CHANNELS, FAR, FAR_LOG2, gap, suspects
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.facts import ModelFacts

LIMITS = {
    "mean": (FAR, "standard deviations", "no channel of the healthy models that were measured is above 0.2"),
    "variance": (FAR_LOG2, "base-2 logarithm of the ratio", "healthy layers stay below 0.11 at the median"),
    "channels": (CHANNELS, "share of the channels", "single channels of healthy models are off"),
    "harm": (0.05, "change of the output, relative to its spread", "healthy models stay below 0.02"),
}
HIDES = ("drifted_data",)
ON = True
REMEDY = "normwise.recalibrate(model, batches)"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all stale layers, the one with the largest share in the change of the output first."""
    names = suspects(each for each in facts.tracked() if each.updates != 0)
    if not names:
        return
    harm = facts.stored.apart(facts.recalibrated) if facts.stored and facts.recalibrated else np.inf
    if harm < LIMITS["harm"][0]:
        return
    guilty = sorted(names, key=lambda name: -facts.shares.get(name, 0.0))
    found = {each.name: gap(each) for each in facts.tracked()}
    worst = found[guilty[0]]
    assert worst is not None  # it is one of the suspects
    several = f"{len(guilty)} layers" if len(guilty) > 1 else f"layer {guilty[0]!r}"
    evidence = {
        "mean off, median channel": Number(float(np.median(worst.z)), "standard deviations", FAR),
        "variance off, median channel": Number(float(np.median(np.abs(worst.log2))), "base-2 logarithm", FAR_LOG2),
        "channels off": Number(worst.wrong, "of the layer's channels", CHANNELS),
        "change of the output": Number(harm, "relative to its spread", LIMITS["harm"][0]),
    }
    if guilty[0] in facts.shares:
        evidence["share of the change"] = Number(facts.shares[guilty[0]], "by this layer alone")
    yield Finding(
        "stale_running_statistics",
        tuple(guilty),
        Severity.ERROR if harm > 4 * LIMITS["harm"][0] else Severity.WARNING,
        f"the running statistics of {several} are not those of what comes in, and the output changes by {harm:.0%} of "
        "its spread when they are: they are stale, or these data are not like those of the training.",
        evidence,
        REMEDY,
        cost_of(facts),
    )


def sick() -> ModelFacts:
    """A layer whose mean is one standard deviation off."""
    return model(layer("bn", mean=1.0), apart=1.0)


def healthy() -> ModelFacts:
    """A layer with the statistics of its input."""
    return model(layer("bn"))
