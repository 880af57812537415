"""Weight decay that has shrunk scales to almost 0.

What it finds:
    A large part of a layer's scales is almost 0, and these scales have the same sign, as after weight decay.

Why it is bad:
    The weights in front of a normalization layer can have any size without a change of its output; its own scale
    cannot. Weight decay on the scale closes channels one by one, and their gradient becomes small with the scale.
    Meanwhile the input of the layers behind shrinks in every step, and their running variance, an average of the
    last steps, is too large. That follows from the decay, so the doctor does not call these layers stale.

How it is measured:
    The doctor counts the scales that are small against 1 for no other reason: they are not exactly 0, as scales
    that somebody set to 0, and they have one sign, unlike the scales of layers that start at 0.

What to do:
    Exclude norms from weight decay: ``normwise.param_groups(model, weight_decay)``.

References:
    He et al., Bag of tricks for image classification, 2018, arXiv:1812.01187 (no bias decay).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.channels import DECAYED_SCALE, DECAYED_SHARE, ONE_SIDE, decayed_share
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts

LIMITS = {
    "scale": (DECAYED_SCALE, "of a channel", "healthy scales that started at 1 stay above 0.1"),
    "share": (DECAYED_SHARE, "share of the channels", "single channels are pruned in healthy models too"),
    "side": (ONE_SIDE, "share of one sign among the small", "scales that started at 0 have both"),
}
HIDES = ("dead_channels",)
ON = True
PROOF = "gain"
LEFT = "The scales grow again only if you train further with this optimizer."
REMEDY = "optimizer = torch.optim.SGD(normwise.param_groups(model, weight_decay=1e-4), lr=0.1, momentum=0.9)"
KERAS_REMEDY = "optimizer.exclude_from_weight_decay(var_names=['gamma', 'beta'])"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    shares = {each.name: share for each in facts.layers if (share := decayed_share(each)) > LIMITS["share"][0]}
    if not shares:
        return
    names = sorted(shares, key=lambda name: -shares[name])
    scale = {each.name: each.scale for each in facts.layers}[names[0]]
    assert scale is not None  # or there were no share
    yield Finding(
        "decayed_scales",
        tuple(names),
        Severity.WARNING,
        f"weight decay has shrunk the scales of {these(names)} to almost 0, so that channels carry nothing.",
        {
            "share of small scales": Number(shares[names[0]], "", LIMITS["share"][0]),
            "scale, median channel": Number(float(np.median(np.abs(scale))), "", LIMITS["scale"][0]),
        },
        KERAS_REMEDY if facts.framework == "keras" else REMEDY,
    )


def sick() -> ModelFacts:
    """A layer with half of its scales at a hundredth."""
    return model(layer("bn", scale=np.where(np.arange(8) < 4, 0.01, 1.0)))


def healthy() -> ModelFacts:
    """A layer that started at 0, and is learning."""
    return model(layer("bn", scale=0.03 * np.where(np.arange(8) < 4, -1.0, 1.0)))
