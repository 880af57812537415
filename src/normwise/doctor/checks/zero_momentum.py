"""A momentum of 0 in a layer that is not frozen.

What it finds:
    A layer's momentum gives a new batch no weight, while its scale and shift learn.

Why it is bad:
    The layer normalizes by the batch in training and never adds anything to its statistics, so that at inference it
    normalizes by the initial ones. A momentum of 0 does not freeze a layer: the layer still uses batch statistics
    in training.

How it is measured:
    The doctor reads the layer's setting. The harm is that of statistics that are off on these data.

What to do:
    Give the layer a momentum (0.1 in PyTorch, 0.99 in Keras) and call ``normwise.recalibrate(model, batches)``. To
    freeze a layer, put it into inference mode.

References:
    Cadene/pretrained-models.pytorch issue 5.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import FAR, HARM, gap, harm, stale, typical
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import ModelFacts

LIMITS = {
    "weight": (0.0, "weight of a new batch", "with 0 nothing enters"),
    "mean": (FAR, "standard deviations", "as for stale statistics"),
    "harm": (HARM, "change of the output, relative to its spread", "as for stale statistics"),
}
HIDES = ("stale_running_statistics", "drifted_data", "never_updated_statistics", "missing_updates", "half_frozen_layer")
ON = True
PROOF = "statistics"
REMEDY = (
    "for name in {layers}: model.get_submodule(name).momentum = {momentum}\n"
    "normwise.recalibrate(model, batches, layers={layers})"
)
KERAS_REMEDY = (
    "for layer in [each for each in model._flatten_layers() if each.path in {layers}]: layer.momentum = {momentum}\n"
    "normwise.recalibrate(model, batches, layers={layers})"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    zero = [each for each in facts.tracked() if each.weight_of_new == 0 and each.learns is not False]
    if not zero:
        return
    off = {*stale(facts)}
    zero.sort(key=lambda each: (each.name not in off, -facts.shares.get(each.name, 0.0)))
    names = [each.name for each in zero]
    evidence = {"weight of a new batch": Number(0.0, "", LIMITS["weight"][0])}
    found, done = gap(zero[0]), harm(facts)
    if found is not None:
        evidence["mean off, median channel"] = Number(typical(found)[0], "standard deviations", FAR)
    if off & {*names} and done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", HARM)
    keras = facts.framework == "keras"
    yield Finding(
        "zero_momentum",
        tuple(names),
        Severity.ERROR if off & {*names} else Severity.WARNING,
        f"{these(names)} {has(names, 'learns', 'learn')}, but the momentum gives a batch no weight in the running "
        "statistics.",
        evidence,
        (KERAS_REMEDY if keras else REMEDY).format(layers=names, momentum=0.99 if keras else 0.1),
        cost_of(facts),
    )


def sick() -> ModelFacts:
    """A layer that learns, and remembers nothing."""
    return model(layer("bn", weight_of_new=0.0, mean=0.9), apart=0.8)


def healthy() -> ModelFacts:
    """A layer whose statistics, scale and shift are all at rest."""
    return model(layer("bn", weight_of_new=0.0, learns=False, frozen="its momentum is 0"))
