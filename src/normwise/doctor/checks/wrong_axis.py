"""Statistics over the wrong axis.

What it finds:
    A layer takes one axis of its input for the channels, and the linear layers around it take another axis for the
    features.

Why it is bad:
    Each place of a sequence gets statistics of its own, and the features, which have different sizes, share them,
    so that the layer does not bring them to one scale. If the length equals the number of features, no error says
    so.

How it is measured:
    The doctor follows the tensors from call to call. A linear, recurrent or embedding layer directly in front or
    behind, with only functions of each element between, has the features in the last axis; a convolution has them
    in axis 1. The means must agree: more of the variance must lie between the indices of that axis than between
    those of the layer's own axis.

What to do:
    Transpose before and after the layer, or give it the right axis.

References:
    pytorch/pytorch issue 76613.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import Input, LayerFacts, ModelFacts

LIMITS = {"between": (2.0, "times the variance between means", "the right axis has the larger one in healthy models")}
HIDES = ("padding_in_statistics",)
ON = True
PROOF = "limits"
REMEDY = (
    "# in the forward: x = layer(x.transpose(1, {axis})).transpose(1, {axis}), for {layers}, built for the features"
)
KERAS_REMEDY = "layer = keras.layers.BatchNormalization(axis={axis})  # in the place of {layers}"
LEFT = "Only you can change your forward; afterwards the statistics have to be collected again."


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    found = {each.name: ratio for each in facts.layers if (ratio := _ratio(each)) > LIMITS["between"][0]}
    if not found:
        return
    names = list(found)
    first = next(each for each in facts.layers if each.name == names[0])
    assert first.input is not None  # or there were no ratio
    remedy = KERAS_REMEDY if facts.framework == "keras" else REMEDY
    yield Finding(
        "wrong_axis",
        tuple(names),
        Severity.ERROR,
        f"{these(names)} {has(names, 'normalizes', 'normalize')} over the wrong axis: the statistics are kept for each "
        f"index of axis {first.input.axis}, but the layers around have the features in axis {first.features_axis}.",
        {
            "variance between the means": Number(
                found[names[0]], "times along the features' axis what it is along the layer's", LIMITS["between"][0]
            )
        },
        remedy.format(axis=first.features_axis, layers=names),
    )


def _ratio(layer: LayerFacts) -> float:
    seen, axis = layer.input, layer.features_axis
    if seen is None or axis is None or axis == seen.axis or not max(axis, seen.axis) < len(seen.between):
        return 0.0
    return seen.between[axis] / max(seen.between[seen.axis], 1e-12)


def sick() -> ModelFacts:
    """A layer on (samples, places, features) that normalizes each place."""
    return model(layer("bn", input=_input((0.0, 0.01, 0.4)), features_axis=2))


def healthy() -> ModelFacts:
    """The same with the features in axis 1."""
    return model(layer("bn", input=_input((0.0, 0.4, 0.01)), features_axis=1))


def _input(between: tuple[float, ...]) -> Input:
    return Input((32, 8, 8), 1, 3.0, "float32", np.zeros(32), np.zeros(32), between=between)
