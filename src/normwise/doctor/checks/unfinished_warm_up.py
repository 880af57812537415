"""Running statistics that still contain much of their initial values.

What it finds:
    So few batches entered a layer's running average that the initial mean of 0 and variance of 1 still have a share
    in it, and this share makes the statistics wrong.

Why it is bad:
    At inference the layer normalizes by a mixture of the data and of numbers that do not come from the data.
    With PyTorch's momentum of 0.1 the initial values count for 1 % after 44 batches; with Keras's 0.99, after 458.

How it is measured:
    The share is (1 - w)^k for k updates with weight w. It counts only if the statistics are off on these data, and
    if they become at least twice as close without that share. A loss or metric decides whether they cost anything, by
    the rule of ``stale_running_statistics``, and can take a finding away; the diagnosis lists what was taken away.

What to do:
    Call ``normwise.recalibrate(model, batches)``; or train further; or use ``estimator="debiased_ema"``, which has
    no warm-up.

References:
    keras-team/keras issue 10666 (0.99 against 0.9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from normwise.doctor.costs import cost_of, not_a_fault
from normwise.doctor.distances import FAR, gap, stale, typical, without_cost
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import LayerFacts, ModelFacts, Seen

LIMITS = {
    "share": (0.1, "share of the statistics of the start", "models that were trained for 24 steps or more do well"),
    "mean": (FAR, "standard deviations", "as for stale statistics"),
    "closer": (0.5, "of the distance that is left without the share", "chance does not halve it in all channels"),
}
HIDES = ("stale_running_statistics", "drifted_data")
ON = True
PROOF = "statistics"
REMEDY = "normwise.recalibrate(model, batches)"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    layers = {each.name: each for each in facts.tracked()}
    off = [name for name in stale(facts) if _closer(layers[name]) < LIMITS["closer"][0]]
    if not off:
        if free := [name for name in without_cost(facts) if _closer(layers[name]) < LIMITS["closer"][0]]:
            yield not_a_fault("unfinished_warm_up", free, facts)
        if "updates" in facts.missing and any(layers[name].updates is None for name in stale(facts)):
            yield Skipped("unfinished_warm_up", facts.missing["updates"])
        return
    names = sorted(off, key=lambda name: -facts.shares.get(name, 0.0))
    first = layers[names[0]]
    found = gap(first)
    assert found is not None  # it is one of those that are off
    yield Finding(
        "unfinished_warm_up",
        tuple(names),
        Severity.ERROR,
        f"the running statistics of {these(names)} still contain much of their initial values, because too few batches "
        "entered.",
        {
            "share of the initial values": Number(_share(first), "", LIMITS["share"][0]),
            "batches that entered": Number(first.updates or 0),
            "mean off, median channel": Number(typical(found)[0], "standard deviations", FAR),
            "left without that share": Number(_closer(first), "of the distance", LIMITS["closer"][0]),
        },
        REMEDY,
        cost_of(facts),
    )


def _share(layer: LayerFacts) -> float:
    if not layer.updates or not layer.weight_of_new:
        return 0.0
    return float((1 - layer.weight_of_new) ** layer.updates)


def _closer(layer: LayerFacts) -> float:
    """The share of the distance to the data that is left when the share of the start is taken out."""
    share, before = _share(layer), gap(layer)
    if share <= LIMITS["share"][0] or before is None:
        return 1.0
    assert layer.mean is not None  # or there were no gap
    assert layer.var is not None
    after = gap(replace(layer, mean=layer.mean / (1 - share), var=(layer.var - share).clip(0) / (1 - share)))
    assert after is not None  # as there was one before
    return sum(typical(after)) / max(sum(typical(before)), 1e-12)


def sick() -> ModelFacts:
    """A layer that has seen five batches only."""
    share = 0.9**5
    return model(layer("bn", mean=3 * (1 - share), var=1.0, updates=5, own=_at_three(), served=_at_three()), apart=1.0)


def healthy() -> ModelFacts:
    """A layer that had 50."""
    share = 0.9**50
    return model(layer("bn", mean=3 * (1 - share), var=1.0, updates=50, own=_at_three(), served=_at_three()))


def _at_three() -> Seen:
    return seen(mean=3.0)
