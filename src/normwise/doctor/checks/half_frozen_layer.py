"""A layer of which one half is frozen.

What it finds:
    A layer uses running statistics at inference, and its settings (``track_running_stats = False``) keep training
    from updating them; or, as a note, the statistics of a layer are frozen and its scale and shift still learn.

Why it is bad:
    In the first case training normalizes by the batch, inference normalizes by old statistics, and nothing brings
    the two together. The second case is a usual way to fine-tune; you only need to know about it.

How it is measured:
    The doctor reads the layer's settings; with ``train_step``, it also looks at what moves in some steps on a copy.

What to do:
    Freeze both halves or neither.

References:
    Lightning-AI/pytorch-lightning issue 15062 and pull request 38084's table in pytorch/pytorch.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import HARM, harm, stale
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import ModelFacts, Steps

LIMITS = {
    "halves": (0.0, "layers of which one half is frozen", "both halves, or none"),
    "harm": (HARM, "change of the output, relative to its spread", "as for stale statistics"),
}
HIDES = ("missing_updates", "stale_running_statistics", "drifted_data", "never_updated_statistics")
ON = True
PROOF = "limits"
REMEDY = "for name in {layers}: model.get_submodule(name).track_running_stats = True"
OFF = "\nnormwise.recalibrate(model, batches)"
SECOND = "normwise.freeze(model, layers={layers})"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all layers that do not track; else a note for all that only learn."""
    untracked = [each.name for each in facts.tracked() if not each.tracks]
    if untracked:
        off = {*stale(facts)}
        evidence = {"layers": Number(len(untracked), "whose statistics nothing updates", LIMITS["halves"][0])}
        done = harm(facts)
        if off & {*untracked} and done is not None:
            evidence["change of the output"] = Number(done, "relative to its spread", HARM)
        yield Finding(
            "half_frozen_layer",
            tuple(sorted(untracked, key=lambda name: name not in off)),
            Severity.ERROR if off & {*untracked} else Severity.WARNING,
            f"{these(untracked)} {has(untracked, 'uses', 'use')} batch statistics in training and running statistics "
            f"at "
            "inference, and nothing updates the running statistics: track_running_stats is off.",
            evidence,
            REMEDY.format(layers=untracked) + (OFF if off & {*untracked} else ""),
            cost_of(facts) if off & {*untracked} else None,
        )
        return
    steps = facts.steps
    if steps is None or steps.assumed:
        return
    learning = [
        each.name
        for each in facts.tracked()
        if each.name in steps.affine_moved - steps.statistics_moved
        and (not each.trains or each.name not in steps.counts)
        and each.weight_of_new != 0
    ]
    if learning:
        yield Finding(
            "half_frozen_layer",
            tuple(learning),
            Severity.NOTE,
            f"the running statistics of {these(learning)} are frozen, but the scale and shift still learn, so that the "
            "layer is frozen in part only.",
            {
                "layers": Number(
                    len(learning), "whose statistics are frozen and whose scale and shift learn", LIMITS["halves"][0]
                )
            },
            SECOND.format(layers=learning),
        )


def sick() -> ModelFacts:
    """A layer with statistics that its settings keep from moving."""
    return model(layer("bn", tracks=False))


def healthy() -> ModelFacts:
    """A layer of which nothing moves."""
    return model(
        layer("bn", learns=False, frozen="so", trains=False), steps=Steps(3, {"bn": 0.0}, frozenset(), frozenset())
    )
