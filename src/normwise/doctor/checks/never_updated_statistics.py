"""Running statistics that no batch has ever updated.

What it finds:
    A layer's running mean is exactly 0 and its running variance exactly 1, as at the start, and its input has other
    statistics.

Why it is bad:
    At inference the layer does not normalize. Possible causes: the layer was frozen from the start, its momentum is
    0, only copies of the model were trained, or a checkpoint was loaded without its buffers.

How it is measured:
    The doctor reads the statistics. In addition the mean of the input, or its variance, must be off by more than
    the limit, because the input of a layer behind another norm may rightly be close to (0, 1).

What to do:
    Call ``normwise.recalibrate(model, batches)``, and find out why no batch entered: look at the mode, the momentum
    and the checkpoint.

References:
    pytorch/vision pull request 5443: frozen layers with random weights and statistics of the start.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import FAR, FAR_LOG2, gap
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "mean": (FAR, "standard deviations", "as for stale statistics"),
    "variance": (FAR_LOG2, "base-2 logarithm of the ratio", "as for stale statistics"),
}
HIDES = ("stale_running_statistics", "drifted_data", "differing_derived_model")
ON = True
PROOF = "statistics"
REMEDY = "normwise.recalibrate(model, batches, layers={layers})"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all layers that still have the statistics of the start."""
    names = [each.name for each in facts.tracked() if at_the_start(each) and _matters(each)]
    if not names:
        return
    found = {each.name: gap(each) for each in facts.tracked()}
    first = found[names[0]]
    assert first is not None  # it matters, so there is one
    several = f"{len(names)} layers have" if len(names) > 1 else f"layer {names[0]!r} has"
    updates = {each.name: each.updates for each in facts.layers}[names[0]]
    evidence = {
        "mean off, median channel": Number(float(np.median(first.z)), "standard deviations", FAR),
        "variance off, median channel": Number(float(np.median(np.abs(first.log2))), "powers of 2", FAR_LOG2),
    }
    if updates is not None:
        evidence["batches that entered"] = Number(updates)
    yield Finding(
        "never_updated_statistics",
        tuple(names),
        Severity.ERROR,
        f"{several} a running mean of exactly 0 and a running variance of exactly 1, as at the start, and an input "
        "with other statistics: at inference nothing is normalized.",
        evidence,
        REMEDY.format(layers=names),
        cost_of(facts),
    )


def at_the_start(layer: LayerFacts) -> bool:
    """True if the running statistics are exactly those of a new layer."""
    return layer.mean is not None and layer.var is not None and bool((layer.mean == 0).all() and (layer.var == 1).all())


def _matters(layer: LayerFacts) -> bool:
    found = gap(layer)
    return found is not None and bool(np.median(found.z) > FAR or np.median(np.abs(found.log2)) > FAR_LOG2)


def sick() -> ModelFacts:
    """A layer with the statistics of the start, whose input has another mean."""
    return model(layer("bn", mean=0.0, var=1.0, updates=0, own=seen(mean=3.0)), apart=2.0)


def healthy() -> ModelFacts:
    """A layer that was updated."""
    return model(layer("bn"))
