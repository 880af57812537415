"""Gradients that vanish or explode over many layers without normalization.

What it finds:
    In a deep model with little normalization, the gradient changes by many orders of magnitude from the last layer
    to the first.

Why it is bad:
    If the gradient shrinks, the first layers learn nothing; if it grows, no learning rate suits all layers.
    Normalization between the layers keeps the gradient within one order of magnitude.

How it is measured:
    With ``loss``, the doctor measures the root mean square of the gradient at the input of every layer with
    weights, on one batch, and takes the ratio of the first to the last. It does so for models that have many such
    layers and few norms; a shallow model without norms is healthy.

What to do:
    Put a normalization layer behind every linear or convolutional layer.

References:
    Ioffe and Szegedy, Batch normalization, 2015, arXiv:1502.03167; Yang et al., A mean field theory of batch
    normalization, 2019, arXiv:1902.08129.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.facts import ModelFacts

LIMITS = {
    "ratio": (1e4, "between the largest and the smallest gradient", "normalized and shallow models stay below 100"),
    "depth": (8, "layers with weights", "over fewer the gradient cannot be lost"),
    "norms": (0.25, "norms per layer with weights", "with more of them normalization is not what is missing"),
}
HIDES = ()
ON = True
PROOF = "gradients"
LEFT = "Build the network again with normalization, and train it from the start."
REMEDY = "torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.BatchNorm1d(64))  # and so on"
KERAS_REMEDY = "keras.Sequential([keras.layers.Dense(64, use_bias=False), keras.layers.BatchNormalization()])"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding, with the layers at both ends."""
    if not facts.gradients:
        yield Skipped("gradients_lost_in_depth", facts.missing.get("gradients", "no gradients were measured"))
        return
    norms = {each.name for each in facts.layers}
    sizes = {name: size for name, size in facts.gradients.items() if name not in norms}
    names = list(sizes)
    if len(names) < LIMITS["depth"][0] or len(norms) > LIMITS["norms"][0] * len(names):
        return
    first, last = sizes[names[0]], sizes[names[-1]]
    if not math.isfinite(first) or not math.isfinite(last) or last == 0:
        return
    ratio = first / last
    change = max(ratio, 1 / ratio) if ratio > 0 else math.inf
    if change <= LIMITS["ratio"][0]:
        return
    yield Finding(
        "gradients_lost_in_depth",
        (names[0],),
        Severity.WARNING,
        f"over {len(names)} layers the gradient {'explodes' if ratio > 1 else 'vanishes'}: at layer {names[0]!r} it is "
        f"{ratio:.2g} times what it is at {names[-1]!r}, and few layers are normalized.",
        {
            "gradient": Number(change, "times between both ends", LIMITS["ratio"][0]),
            "norms": Number(len(norms) / len(names), "per layer with weights", LIMITS["norms"][0]),
        },
        KERAS_REMEDY if facts.framework == "keras" else REMEDY,
    )


def sick() -> ModelFacts:
    """Ten layers, each of which takes nine tenths of the gradient away."""
    return model(gradients={f"linear{number}": 10.0 ** (number - 12) for number in range(12)})


def healthy() -> ModelFacts:
    """The same with a norm behind each."""
    gradients = {f"{kind}{number}": 1.0 + number for number in range(12) for kind in ("linear", "bn")}
    return model(*(layer(f"bn{number}") for number in range(12)), gradients=gradients)
