"""Channels whose gain is in the thousands.

What it finds:
    A layer multiplies a channel by more than a thousand, and the channel's input is not constant.

Why it is bad:
    The smallest noise of such a channel is as large as the signal of the others: outputs change with rounding, and
    half precision overflows.

How it is measured:
    The doctor computes the gain, |scale| / sqrt(variance + eps), and asks whether a large scale or a variance close
    to 0 makes it large. A channel whose input is constant is called dead, and not exploding.

What to do:
    Lower the learning rate, find out what shrinks the input, or use a larger eps; call
    ``normwise.recalibrate(model, batches)`` if the stored variance is wrong.

References:
    pytorch/vision pull request 1947 (layers without eps whose outputs explode).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from normwise.doctor.channels import LARGE_GAIN, LARGE_SPREAD, exploding, gain
from normwise.doctor.costs import cost_of
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "gain": (LARGE_GAIN, "of a channel", "healthy channels stay below 14, constant ones below 500"),
    "spread": (LARGE_SPREAD, "standard deviations of what comes out", "a healthy channel's is its scale, below 7"),
}
HIDES = ("stale_running_statistics", "drifted_data", "dead_channels")
ON = True
PROOF = "gain"
REMEDY = "normwise.recalibrate(model, batches, layers={layers})"
OF_SCALES = (
    "for name, channels in {channels}.items(): scale = model.get_submodule(name).weight.data; "
    "scale[channels] = scale.abs().median()"
)
KERAS_OF_SCALES = (
    "for layer in [each for each in model._flatten_layers() if each.path in {channels}]: "
    "scale = np.array(keras.ops.convert_to_numpy(layer.gamma)); "
    "scale[{channels}[layer.path]] = np.median(np.abs(scale)); layer.gamma.assign(scale)"
)
LEFT = (
    "If the scale itself exploded, train further: the remedy gives the channel the median scale of the layer, which "
    "was "
    "not learned for it."
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the largest gain first."""
    gains = {each.name: float(gain(each)[bad].max()) for each in facts.tracked() if (bad := exploding(each)).any()}
    if not gains:
        return
    names = sorted(gains, key=lambda name: -gains[name])
    yield Finding(
        "exploding_channels",
        tuple(names),
        Severity.WARNING,
        f"{these(names)} {has(names, 'multiplies', 'multiply')} channels by up to {gains[names[0]]:.3g}.",
        {"gain": Number(gains[names[0]], "of the worst channel", LIMITS["gain"][0])},
        _remedy(facts, names),
        cost_of(facts),
    )


def _remedy(facts: ModelFacts, names: list[str]) -> str:
    """The code that sets right variances where these are wrong, other channels' scales where scales are too large."""
    layers = {each.name: each for each in facts.tracked()}
    if all(_by_variance(layers[name]) for name in names):
        return REMEDY.format(layers=names)
    channels = {name: np.flatnonzero(exploding(layers[name])).tolist() for name in names}
    return (KERAS_OF_SCALES if facts.framework == "keras" else OF_SCALES).format(channels=channels)


def _by_variance(layer: LayerFacts) -> bool:
    """True if no channel explodes with the variance of the data."""
    if layer.own is None:
        return True
    return not exploding(replace(layer, mean=layer.own.pooled().mean, var=np.asarray(layer.own.pooled().var))).any()


def sick() -> ModelFacts:
    """A layer with a scale of ten thousand in one channel."""
    return model(layer("bn", scale=np.where(np.arange(8) == 0, 1e4, 1.0)))


def healthy() -> ModelFacts:
    """A layer whose input is small, and whose output is not."""
    return model(layer("bn", var=1e-10, eps=1e-16, own=seen(var=1e-10), served=seen(var=1e-10)))
