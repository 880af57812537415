"""Running statistics in half precision.

What it finds:
    A layer keeps its running statistics in bfloat16 or float16.

Why it is bad:
    A running average moves by small steps. Bfloat16 has 8 bits, so a step that is smaller than half of the last bit
    is lost, and the average stops before it arrives: with a momentum of 0.01, after two thirds of the way. In
    float16, variances above 65504 are infinite.

How it is measured:
    The doctor reads the dtype of the buffers, and computes the share of channels whose next step would be lost,
    from the distance to the statistics of these data.

What to do:
    Keep the statistics in float32, which costs a few bytes per channel (normwise's layers do it by themselves), and
    call ``normwise.recalibrate(model, batches)``.

References:
    pytorch/torchtitan issue 674; pytorch/pytorch issue 75478.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import HARM, harm, stale
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "bits": (24, "bits", "float32's; bfloat16 has 8, float16 has 11"),
    "harm": (HARM, "change of the output, relative to its spread", "as for stale statistics"),
}
HIDES = ("stale_running_statistics", "drifted_data")
ON = True
PROOF = "statistics"
LEFT = "A Keras model has to be built again, because the type of a variable cannot be changed."
REMEDY = "for name in {layers}: model.get_submodule(name).float()\nnormwise.recalibrate(model, batches)"
KERAS_REMEDY = "keras.config.set_dtype_policy('mixed_bfloat16')  # then build the model again, and load its weights"
BITS = {"bfloat16": 8, "float16": 11}


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    low = [each for each in facts.tracked() if each.dtype in BITS]
    if not low:
        return
    off = {*stale(facts)}
    low.sort(key=lambda each: (each.name not in off, BITS[each.dtype]))
    names = [each.name for each in low]
    evidence = {"precision": Number(BITS[low[0].dtype], "bits", LIMITS["bits"][0])}
    lost = _lost(low[0])
    if lost is not None:
        evidence["share of channels whose next step is lost"] = Number(lost)
    done, harmed = harm(facts), bool(off & {*names})
    if harmed and done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", HARM)
    risky = any(each.dtype == "bfloat16" or each.trains for each in low)
    yield Finding(
        "low_precision_statistics",
        tuple(names),
        Severity.ERROR if harmed else Severity.WARNING if risky else Severity.NOTE,
        f"{these(names)} {has(names, 'keeps', 'keep')} running statistics in {low[0].dtype}, in which small steps of "
        "an average are lost.",
        evidence,
        (KERAS_REMEDY if facts.framework == "keras" else REMEDY).format(layers=names),
        cost_of(facts) if harmed else None,
    )


def _lost(layer: LayerFacts) -> float | None:
    if layer.own is None or not layer.weight_of_new:
        return None
    assert layer.mean is not None  # it is one of those that have statistics
    step = layer.weight_of_new * abs(layer.own.pooled().mean - layer.mean)
    half = abs(layer.mean) * 2.0 ** -BITS[layer.dtype] / 2
    return float((step < half).mean())


def sick() -> ModelFacts:
    """A layer that was converted to bfloat16 with the model."""
    return model(layer("bn", dtype="bfloat16", trains=True))


def healthy() -> ModelFacts:
    """A layer whose statistics stayed in float32."""
    return model(layer("bn", dtype="float32", trains=True))
