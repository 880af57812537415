"""A momentum by the other framework's convention.

What it finds:
    A layer gives the newest batch at least half of the weight in its running statistics.

Why it is bad:
    PyTorch's momentum is the weight of the new batch; Keras's is the weight of the old statistics. If somebody
    copies 0.99 or 0.9 from Keras to PyTorch, the statistics are those of the last batch or two, and every
    evaluation depends on which batches came last.

How it is measured:
    The doctor reads the layer's setting. The harm is that of stale statistics on these data.

What to do:
    In PyTorch write ``momentum=1 - m`` for Keras's m, and then call ``normwise.recalibrate(model, batches)``.

References:
    pytorch/vision issue 8250 (0.99 in MaxViT); huggingface/transformers pull request 19454.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import HARM, harm, stale
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import ModelFacts

LIMITS = {
    "weight": (0.5, "weight of the newest batch", "0.1 is PyTorch's, 0.01 Keras's; at 0.5 two batches have 3/4 of it"),
    "harm": (HARM, "change of the output, relative to its spread", "as for stale statistics"),
}
HIDES = ("stale_running_statistics", "drifted_data")
ON = True
PROOF = "statistics"
REMEDY = (
    "for name in {layers}: layer = model.get_submodule(name); layer.momentum = 1 - layer.momentum\n"
    "normwise.recalibrate(model, batches)"
)
KERAS_REMEDY = (
    "for layer in [each for each in model._flatten_layers() if each.path in {layers}]: "
    "layer.momentum = 1 - layer.momentum\n"
    "normwise.recalibrate(model, batches)"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    weights = {each.name: each.weight_of_new for each in facts.tracked() if each.frozen is None or each.trains}
    names = [name for name, weight in weights.items() if weight is not None and weight >= LIMITS["weight"][0]]
    if not names:
        return
    off = {*stale(facts)}
    names.sort(key=lambda name: (name not in off, -facts.shares.get(name, 0.0)))
    evidence = {"weight of the newest batch": Number(weights[names[0]] or 0.0, "", LIMITS["weight"][0])}
    done = harm(facts)
    if off & {*names} and done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", HARM)
    yield Finding(
        "inverted_momentum",
        tuple(names),
        Severity.ERROR if off & {*names} else Severity.WARNING,
        f"{these(names)} {has(names, 'gives', 'give')} the newest batch {weights[names[0]]:.0%} of the weight in the "
        "running statistics: the momentum seems to be that of the other framework, which defines momentum as 1 minus "
        "this one.",
        evidence,
        (KERAS_REMEDY if facts.framework == "keras" else REMEDY).format(layers=names),
        cost_of(facts),
    )


def sick() -> ModelFacts:
    """A layer with Keras's 0.99 as PyTorch's momentum."""
    return model(layer("bn", weight_of_new=0.99))


def healthy() -> ModelFacts:
    """A layer with PyTorch's."""
    return model(layer("bn", weight_of_new=0.1))
