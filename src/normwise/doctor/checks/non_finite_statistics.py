"""Running statistics that are NaN, infinite or negative.

What it finds:
    A running mean or variance that is not a finite number, or a variance below 0.

Why it is bad:
    One batch with an overflow is enough: the average stays NaN for ever. Training looks healthy, because it does
    not read these numbers; at inference the outputs of all layers behind are NaN.

How it is measured:
    The doctor reads the statistics.

What to do:
    ``normwise.recalibrate(model, batches, layers=...)`` estimates them from data. normwise's layers never let such
    a batch into their statistics.

References:
    pytorch/pytorch issue 88474; keras-team/keras issue 9646 (negative variances after averaging).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.costs import cost_of
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {"channels": (0.0, "channels", "any is too many")}
HIDES = (
    "stale_running_statistics",
    "drifted_data",
    "never_updated_statistics",
    "dead_channels",
    "exploding_channels",
    "differing_derived_model",
)
ON = True
PROOF = "statistics"
REMEDY = "normwise.recalibrate(model, batches, layers={layers})"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, in the order of their calls."""
    bad = {each.name: number for each in facts.tracked() if (number := _bad_channels(each))}
    if not bad:
        return
    names = list(bad)
    several = f"{len(names)} layers" if len(names) > 1 else f"layer {names[0]!r}"
    yield Finding(
        "non_finite_statistics",
        tuple(names),
        Severity.ERROR,
        f"the running statistics of {several} hold NaN, infinity or a negative variance, so the model's outputs at "
        "inference are NaN or meaningless.",
        {"channels": Number(bad[names[0]], "of the first layer", 0)},
        REMEDY.format(layers=names),
        cost_of(facts),
    )


def _bad_channels(layer: LayerFacts) -> int:
    assert layer.mean is not None  # it is one of those that have statistics
    assert layer.var is not None
    return int((~np.isfinite(layer.mean) | ~np.isfinite(layer.var) | (layer.var < 0)).sum())


def sick() -> ModelFacts:
    """A layer with a NaN in it."""
    return model(layer("bn", mean=float("nan")))


def healthy() -> ModelFacts:
    """A layer without."""
    return model(layer("bn"))
