"""A trained layer whose running statistics no step updates.

What it finds:
    In training steps a layer is called in training mode, or learns, and its running statistics do not change by a
    single bit.

Why it is bad:
    The weights move away from the statistics, which become stale step by step, and nothing shows it before the
    evaluation.

How it is measured:
    With ``train_step``, the doctor compares statistics, scale and shift bit by bit before and after some steps on a
    copy. A layer in which nothing moves is frozen, which is right. A layer in inference mode that learns is half
    frozen, which is another check.

What to do:
    Find what keeps the statistics still: a block that pauses them, a copy that is trained in the place of the
    model, or a momentum of 0.

References:
    DLR-RM/stable-baselines3 issue 996 (statistics of target networks that were never copied).
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import has, these
from normwise.facts import ModelFacts, Steps

LIMITS = {"updates": (0.0, "updates in all steps", "a layer that trains is updated in every step")}
HIDES = ()
ON = True
PROOF = "updates"
REMEDY = (
    "# remove what pauses the statistics of {layers} from your training loop, or freeze the layers: "
    "normwise.freeze(model)"
)
LEFT = "Only you can change your training loop."


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    steps = facts.steps
    if steps is None:
        yield Skipped("missing_updates", facts.missing.get("steps", "no steps of training were seen"))
        return
    names = [
        each.name
        for each in facts.tracked()
        if each.name in steps.affine_moved - steps.statistics_moved and each.name in steps.counts
    ]
    if names:
        yield Finding(
            "missing_updates",
            tuple(names),
            Severity.WARNING,
            f"{these(names)} {has(names, 'trains', 'train')} on batch statistics, and no training step updates the "
            f"running statistics.",
            {"updates": Number(0.0, f"in {steps.number} steps", LIMITS["updates"][0])},
            REMEDY.format(layers=names),
        )


def sick() -> ModelFacts:
    """A layer that learns by batches that it does not remember."""
    steps = Steps(3, {"bn": 0.0}, frozenset(), frozenset({"bn"}), {"bn": 512.0})
    return model(layer("bn", trains=True), steps=steps)


def healthy() -> ModelFacts:
    """A layer of which nothing moves."""
    return model(layer("bn", learns=False, frozen="so"), steps=Steps(3, {"bn": 0.0}, frozenset(), frozenset()))
