"""Running statistics that are updated more than once in an optimizer step.

What it finds:
    In one training step a layer's running statistics are updated several times.

Why it is bad:
    Causes are a second forward for a loss, a dummy input, checkpointed activations that are computed twice, or
    gradients that are accumulated over small batches. Each adds a batch to the average, so that the average covers
    fewer steps than its momentum says, and perhaps data that are not training data.

How it is measured:
    With ``train_step``, the doctor counts the calls in which the statistics change, in some steps on a copy.

What to do:
    Run the other forwards within ``normwise.paused_statistics(model)``. For accumulation,
    ``normwise.torch.accumulate_gradients`` makes one update from all parts.

References:
    pytorch/pytorch issue 96136 (checkpointing) and issue 46516 (accumulation).
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts, Steps

LIMITS = {"updates": (1.0, "updates per step", "one step is one batch")}
HIDES = ()
ON = True
PROOF = "updates"
REMEDY = "with normwise.paused_statistics(model): ...  # in the place of the dots: all forwards of a step but the first"
KERAS_REMEDY = "# call the model with training=False in all forwards of a step but the first, for {layers}"
LEFT = "Only you can change your training loop."


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the most often updated first."""
    if facts.steps is None:
        yield Skipped("repeated_updates", facts.missing.get("steps", "no steps of training were seen"))
        return
    updates = facts.steps.updates
    names = [
        each.name
        for each in facts.tracked()
        if updates.get(each.name, 0.0) > max(each.calls, 1.0) * LIMITS["updates"][0]
    ]
    if not names:
        return
    names.sort(key=lambda name: -updates[name])
    yield Finding(
        "repeated_updates",
        tuple(names),
        Severity.WARNING,
        f"the running statistics of {these(names)} are updated {updates[names[0]]:.3g} times in one optimizer step.",
        {
            "updates": Number(updates[names[0]], "per step", LIMITS["updates"][0]),
            "steps": Number(facts.steps.number, "that were watched"),
        },
        KERAS_REMEDY.format(layers=names) if facts.framework == "keras" else REMEDY,
    )


def sick() -> ModelFacts:
    """A layer whose forward runs twice in a step."""
    return model(layer("bn"), steps=Steps(3, {"bn": 2.0}, frozenset({"bn"}), frozenset({"bn"})))


def healthy() -> ModelFacts:
    """A layer that is updated once in a step."""
    return model(layer("bn"), steps=Steps(3, {"bn": 1.0}, frozenset({"bn"}), frozenset({"bn"})))
