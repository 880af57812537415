"""A bias in front of normalization.

What it finds:
    A linear or convolutional layer directly in front of a normalization layer adds a bias.

Why it is bad:
    The normalization subtracts the mean, and the bias with it. In training the bias therefore has no effect and a
    gradient of 0, and it costs memory and time. A large bias also costs digits.

How it is measured:
    The doctor follows the tensors from call to call.

What to do:
    Build the layer in front with ``bias=False``.

References:
    Ioffe and Szegedy, Batch normalization, 2015, arXiv:1502.03167, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts

LIMITS = {"layers": (0.0, "layers behind a bias", "the bias has no effect")}
HIDES = ()
ON = True
PROOF = "limits"
LEFT = "Only you know the sizes of the layer in front; the bias costs little until you build that layer again."
REMEDY = "torch.nn.Conv2d(16, 32, 3, bias=False)  # in front of normalization; the same for torch.nn.Linear"
KERAS_REMEDY = "keras.layers.Conv2D(32, 3, use_bias=False)  # in front of normalization; the same for Dense"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One note for all such layers."""
    names = [each.name for each in facts.layers if each.bias_in_front]
    if names:
        yield Finding(
            "bias_before_normalization",
            tuple(names),
            Severity.NOTE,
            f"the layer in front of {these(names)} adds a bias, which the normalization subtracts again.",
            {"layers": Number(len(names), "behind a bias", LIMITS["layers"][0])},
            KERAS_REMEDY if facts.framework == "keras" else REMEDY,
        )


def sick() -> ModelFacts:
    """A layer behind a convolution with a bias."""
    return model(layer("bn", bias_in_front=True))


def healthy() -> ModelFacts:
    """A layer behind a convolution without."""
    return model(layer("bn"))
