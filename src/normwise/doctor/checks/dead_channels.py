"""Channels whose output is constant.

What it finds:
    Channels whose input is constant, so that their variance is 0, or whose scale is almost 0.

Why it is bad:
    The output of such a channel is the same for every sample, so that its capacity is lost. Its gain, scale /
    sqrt(variance + eps), is as large as eps allows, so that folding or rounding turns small errors into large ones.

How it is measured:
    The doctor compares the variance of the input on these data with eps and with rounding, and each scale with the
    largest of its layer. A few dead channels are a note, and so are those of the model's own input, such as pixels
    that are always black.

What to do:
    Look at the layers in front: a unit may have died, or a weight may have decayed. You can leave constant inputs
    out.

References:
    ynahshan/nn-quantization-pytorch issue 3 (folding channels whose variance is next to 0).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.channels import constant, lost_scale
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "share": (0.1, "share of the channels", "healthy models have a few, behind activations that died"),
    "scale": (1e-3, "of the layer's largest scale", "healthy models stay above 0.01"),
}
HIDES = ()
ON = True
PROOF = "gain"
REMEDY = (
    "# find the layer in front of {layers} whose units died or whose weights decayed, and train further with a smaller "
    "learning rate or without weight decay"
)
LEFT = "Only training brings such a channel back."


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the most dead first."""
    shares = {each.name: share for each in facts.tracked() if (share := _share(each)) > 0}
    bad = {each.name for each in facts.tracked() if shares.get(each.name, 0) > LIMITS["share"][0] and not each.on_data}
    if not shares:
        return
    names = sorted(bad or shares, key=lambda name: -shares[name])
    first = {each.name: each for each in facts.tracked()}[names[0]]
    yield Finding(
        "dead_channels",
        tuple(names),
        Severity.WARNING if bad else Severity.NOTE,
        f"{these(names)} {has(names)} channels whose output is the same for every sample.",
        {
            "share of dead channels": Number(shares[names[0]], "", LIMITS["share"][0]),
            "constant input": Number(float(constant(first).sum()), "channels"),
            "scale close to 0": Number(float(lost_scale(first).sum()), "channels"),
        },
        REMEDY.format(layers=names),
    )


def _share(layer: LayerFacts) -> float:
    return float((constant(layer) | lost_scale(layer)).mean())


def sick() -> ModelFacts:
    """A layer with half of its channels constant."""
    var = np.where(np.arange(8) < 4, 0.0, 1.0)
    return model(layer("bn", var=var, own=seen(var=var), served=seen(var=var)))


def healthy() -> ModelFacts:
    """A layer with no constant channel."""
    return model(layer("bn"))
