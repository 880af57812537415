"""Padding that enters the statistics.

What it finds:
    Samples of different lengths were padded at the end to the longest length, and a layer's statistics include the
    padding.

Why it is bad:
    Every padded place counts like a real one. With 30 % of padding the spread of a channel is too small by a fifth,
    with 80 % by more than half. The error changes from batch to batch with the lengths, so that the output for a
    sample depends on the lengths of the other samples.

How it is measured:
    The doctor finds, for each sample, the places at the end of the longest axis at which all channels stay the
    same. The lengths must differ, and there must be no such places at the beginning, where images have margins.
    Then it compares the moments of a batch with these places and without them.

What to do:
    Give the layer a mask that is true for real values; normwise's layers take ``mask=``.

References:
    pytorch/pytorch issue 70529; keras-team/keras issue 19848.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.distances import CHANNELS, FAR, FAR_LOG2
from normwise.doctor.examples import CHANNELS as WIDTH
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import Array, Input, LayerFacts, ModelFacts
from normwise.moments import Moments

LIMITS = {
    "padding": (0.05, "share of the places", "less does not move a variance by 5 %"),
    "lengths": (0.1, "of the longest, their range", "constant ends of one length are margins, not padding"),
    "margin": (0.5, "of the constant ends, constant beginnings", "images have margins on both sides"),
    "mean": (FAR, "standard deviations", "as for stale statistics"),
    "variance": (FAR_LOG2, "base-2 logarithm of the ratio", "as for stale statistics"),
}
HIDES = ()
ON = True
PROOF = "limits"
LEFT = "Only you know which places are real; your forward has to pass the mask to the layer."
REMEDY = (
    "layer = normwise.torch.BatchNorm1d({channels})  # in the place of {layer!r}, called as layer(x, mask=mask), "
    "where the mask is True for real values"
)
KERAS_REMEDY = (
    "layer = normwise.keras.BatchNormalization()  # in the place of {layer!r}, called as layer(x, mask=mask), "
    "where the mask is True for real values"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all layers whose moments the padding changes, the most changed first."""
    effects = {each.name: effect for each in facts.tracked() if (effect := _effect(each)) is not None}
    guilty = [name for name, (z, log2) in effects.items() if ((z > FAR) | (log2 > FAR_LOG2)).mean() > CHANNELS]
    if not guilty:
        return
    layers = {each.name: each for each in facts.tracked()}
    first = layers[guilty[0]]
    assert first.input is not None  # or there were no effect
    z, log2 = effects[first.name]
    remedy = KERAS_REMEDY if facts.framework == "keras" else REMEDY
    yield Finding(
        "padding_in_statistics",
        tuple(guilty),
        Severity.WARNING,
        f"samples are padded at the end to one length, and the padding enters the statistics of {these(guilty)}.",
        {
            "share of padded places": Number(float(first.input.tails.mean()), "", LIMITS["padding"][0]),
            "mean moved by padding, median channel": Number(float(np.median(z)), "standard deviations", FAR),
            "variance moved by padding, median channel": Number(float(np.median(log2)), "powers of 2", FAR_LOG2),
        },
        remedy.format(layer=first.name, channels=len(z)),
    )


def _effect(layer: LayerFacts) -> tuple[Array, Array] | None:
    """The distances that padding moves the mean and the variance by; None without it, or where a mask keeps it out."""
    seen, now = layer.input, layer.served or layer.own
    if seen is None or seen.heads is None or seen.whole is None or seen.without_tails is None or now is None:
        return None
    tails, heads = seen.tails, seen.heads
    if len(tails) < 2 or np.isnan(tails).any() or tails.mean() < LIMITS["padding"][0]:
        return None
    if np.ptp(tails) < LIMITS["lengths"][0] or heads.mean() > LIMITS["margin"][0] * tails.mean():
        return None
    whole, real = seen.whole, seen.without_tails
    entered = np.abs(now.mean[0] - whole.mean) <= np.abs(now.mean[0] - real.mean)
    if entered.mean() < 0.5:
        return None  # a mask keeps the padding out
    spread = np.asarray(real.var) + layer.eps
    return np.abs(whole.mean - real.mean) / np.sqrt(spread), np.abs(np.log2((whole.var + layer.eps) / spread))


def sick() -> ModelFacts:
    """A batch of sequences of which half is padding."""
    return model(layer("bn", kind="BatchNorm1d", input=_input(np.linspace(0, 1, 9), Moments(*_moments(1.0, 0.25)))))


def healthy() -> ModelFacts:
    """A batch of sequences of one length."""
    return model(layer("bn", kind="BatchNorm1d", input=_input(np.zeros(9), Moments(*_moments(0.0, 1.0)))))


def _moments(mean: float, var: float) -> tuple[Array, Array, Array]:
    return np.full(WIDTH, mean), np.full(WIDTH, var), np.full(WIDTH, 512.0)


def _input(tails: Array, real: Moments) -> Input:
    return Input((9, WIDTH, 57), 1, 3.0, "float32", tails, 0 * tails, Moments(*_moments(0.0, 1.0)), real)
