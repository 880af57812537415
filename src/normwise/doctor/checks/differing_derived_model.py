"""A derived model that differs from its source.

What it finds:
    A model was folded, converted or exported and should give the same outputs as its source model, but gives
    others.

Why it is bad:
    A program that folds may forget to scale the bias, one that converts may forget eps or take another norm, and
    one that exports may leave a layer in training mode. The model that is deployed is then not the model that was
    evaluated.

How it is measured:
    With ``source_model``, the doctor compares the outputs of both models on the same batches. A difference counts
    if the weights are the same, or if norms were taken out; a model that was trained further or averaged may
    differ. So may a recalibrated model: the doctor compares once more with the running statistics of the source, and
    where nothing else differs and the model's own are right for these data, it finds nothing.

What to do:
    Derive the model again from a model in inference mode, and compare the two on real data.

References:
    ultralytics/yolov3 issue 807; pytorch/pytorch pull request 115715 (top-1 of 1.7 % for 72.9 %).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from normwise.doctor.distances import off_at_inference, suspects
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.facts import ModelFacts, Source

LIMITS = {
    "output": (1e-3, "distance to the source's, relative to its spread", "a right fold stays below 1e-5 in float32"),
    "error": (1e-2, "distance to the source's, relative to its spread", "half precision stays below"),
    "weights": (1e-3, "of the source's size, the difference of the weights", "beyond, it was trained further"),
}
HIDES = ("stale_running_statistics", "drifted_data")
ON = True
PROOF = "limits"
REMEDY = "model.load_state_dict(source_model.state_dict())"
KERAS_REMEDY = "model.set_weights(source_model.get_weights())"
FOLDED = "import copy; model = copy.deepcopy(source_model).eval(); normwise.fold(model, batches)"
KERAS_FOLDED = (
    "model = keras.models.clone_model(source_model); model.set_weights(source_model.get_weights()); "
    "model = normwise.fold(model, batches).model"
)
LEFT = "If a program, such as an exporter, made the model, correct the fault in that program."


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding, of the model as a whole."""
    source = facts.source
    if source is None:
        yield Skipped("differing_derived_model", facts.missing.get("source", "no source_model was given"))
        return
    same = source.weights_apart <= LIMITS["weights"][0] or len(facts.layers) < source.norms
    if not same or source.apart <= LIMITS["output"][0] or _recalibrated(facts, source):
        return
    taken = source.norms - len(facts.layers)
    what = f"{taken} of whose {source.norms} norms were taken out" if taken > 0 else "which has the same weights"
    yield Finding(
        "differing_derived_model",
        (),
        Severity.ERROR if source.apart > LIMITS["error"][0] else Severity.WARNING,
        f"the model's output is not that of the source model, {what}: the two differ by {source.apart:.2g} of the "
        "output's spread.",
        {"difference of the output": Number(source.apart, "relative to its spread", LIMITS["output"][0])},
        _remedy(facts, taken),
    )


def _recalibrated(facts: ModelFacts, source: Source) -> bool:
    only_statistics = source.apart_alike is not None and source.apart_alike <= LIMITS["output"][0]
    return only_statistics and not (suspects(facts.tracked()) and off_at_inference(facts))


def _remedy(facts: ModelFacts, taken: int) -> str:
    keras = facts.framework == "keras"
    if taken > 0:
        return KERAS_FOLDED if keras else FOLDED
    return KERAS_REMEDY if keras else REMEDY


def sick() -> ModelFacts:
    """A fold that forgot something."""
    return replace(model(), source=Source(0.3, {}, 0.5, {}, 4))


def healthy() -> ModelFacts:
    """The source with the statistics of these data."""
    return replace(model(layer("bn")), source=Source(0.3, {"bn": 1e-5}, 0.0, {"bn": 0.4}, 1, 2e-6))
