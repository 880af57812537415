"""An eps that was changed when the model was converted.

What it finds:
    A layer's eps is not that of the source model, and the variance of some channel is so small that this matters.

Why it is bad:
    The layer divides by sqrt(variance + eps). With PyTorch's 1e-5 in the place of Keras's 1e-3, channels of small
    variance get another scale, and every layer behind them gets other inputs.

How it is measured:
    The doctor compares the gain of every channel, 1 / sqrt(variance + eps), with the one eps and with the other.

What to do:
    Give the layers the eps of the source model.

References:
    r9y9/tacotron_pytorch issue 19; pytorch/vision pull request 2940.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import ModelFacts, Seen, Source

LIMITS = {
    "gain": (0.01, "change of a channel's gain", "the proposal of a survey of such reports"),
    "harm": (0.01, "change of the output, relative to its spread", "rounding stays below 1e-4"),
}
HIDES = ("differing_derived_model",)
ON = True
PROOF = "limits"
REMEDY = "for name, eps in {eps}.items(): model.get_submodule(name).eps = eps"
KERAS_REMEDY = (
    "eps = {eps}\n"
    "for layer in [each for each in model._flatten_layers() if each.path in eps]: layer.epsilon = eps[layer.path]"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the one whose channels change most first."""
    if facts.source is None:
        return
    changes = {}
    for each in facts.tracked():
        eps = facts.source.eps.get(each.name, each.eps)
        assert each.var is not None  # it is one of those that have statistics
        with np.errstate(all="ignore"):
            change = float(np.nanmax(np.abs(np.sqrt((each.var + eps) / (each.var + each.eps)) - 1), initial=0.0))
        if eps != each.eps and change > LIMITS["gain"][0]:
            changes[each.name] = (change, eps, each.eps)
    if not changes:
        return
    names = sorted(changes, key=lambda name: -changes[name][0])
    change, eps, now = changes[names[0]]
    keras = facts.framework == "keras"
    yield Finding(
        "changed_eps",
        tuple(names),
        Severity.ERROR if facts.source.apart > LIMITS["harm"][0] else Severity.WARNING,
        f"{these(names)} {has(names)} an eps of {now:g}, and the source model had {eps:g}: channels of small variance "
        "get another scale.",
        {
            "gain of the worst channel": Number(change, "relative change", LIMITS["gain"][0]),
            "difference of the output": Number(facts.source.apart, "relative to its spread", LIMITS["harm"][0]),
        },
        (KERAS_REMEDY if keras else REMEDY).format(eps={name: changes[name][1] for name in names}),
    )


def sick() -> ModelFacts:
    """PyTorch's eps in a model that had Keras's, and variances of a hundredth."""
    return replace(model(layer("bn", var=0.01, own=_small(), served=_small())), source=_from(1e-3, 0.05))


def healthy() -> ModelFacts:
    """The same with variances that are large against both."""
    return replace(model(layer("bn")), source=_from(1e-3, 0.0005))


def _small() -> Seen:
    return seen(var=0.01)


def _from(eps: float, apart: float) -> Source:
    return Source(apart, {"bn": eps}, 0.0, {"bn": 0.0}, 1)
