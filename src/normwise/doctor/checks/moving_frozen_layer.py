"""A frozen layer whose running statistics move.

What it finds:
    The scale and shift of a layer do not learn while other parameters do, but its running statistics move in
    training.

Why it is bad:
    Whoever freezes a feature extractor expects the same features as before. In PyTorch ``requires_grad = False``
    freezes the scale and shift only, and ``model.train()`` undoes ``layer.eval()``. The layer then normalizes by
    the batches of the new data and forgets the old statistics, and results cannot be reproduced.

How it is measured:
    With ``train_step``, the doctor compares statistics, scale and shift bit by bit before and after some steps on a
    copy. Without it, the doctor looks at the layer's state: the layer does not learn, and is in training mode. The
    statistics of a frozen layer are those of earlier data, not of these; that is the purpose of freezing, so the
    doctor does not call them stale.

What to do:
    Put the layers into inference mode in every step, after ``model.train()``.

References:
    pytorch/pytorch issue 86590; Lightning-AI/pytorch-lightning issue 15062.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts, Steps

LIMITS = {"moved": (0.0, "frozen layers whose statistics move", "a frozen layer is the same to the last bit")}
HIDES = ("repeated_updates", "half_frozen_layer", "missing_updates", "stale_running_statistics", "drifted_data")
ON = True
PROOF = "updates"
REMEDY = "normwise.freeze(model, layers={layers})"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers."""
    held = [each for each in facts.tracked() if each.learns is False and _others_learn(facts)]
    steps = facts.steps
    if steps is None:
        moved, severity = [each.name for each in held if each.trains and each.tracks and each.weight_of_new != 0], None
    elif steps.assumed:
        if held:
            yield Skipped(
                "moving_frozen_layer",
                "the model came in inference mode and train_step does not call model.train(), so that layers that are "
                "frozen by their mode cannot be told from the others",
            )
        return
    else:
        moved = [each.name for each in held if each.name in steps.statistics_moved - steps.affine_moved]
        severity = Severity.ERROR
    if not moved:
        return
    yield Finding(
        "moving_frozen_layer",
        tuple(moved),
        severity or Severity.WARNING,
        f"the scale and shift of {these(moved)} are frozen, but the running statistics "
        f"{'move' if severity else 'will move'} "
        "in training.",
        {
            "layers": Number(
                len(moved), "whose scale and shift are frozen and whose statistics move", LIMITS["moved"][0]
            )
        },
        REMEDY.format(layers=moved),
    )


def _others_learn(facts: ModelFacts) -> bool:
    """True if something is trained at all: a model in which nothing learns is not frozen, but at rest."""
    return facts.steps is not None or any(each.frozen or each.learns for each in facts.layers)


def sick() -> ModelFacts:
    """A layer that does not learn, and whose statistics moved in a step."""
    return model(layer("bn", learns=False, trains=True), steps=Steps(3, {"bn": 1.0}, frozenset({"bn"}), frozenset()))


def healthy() -> ModelFacts:
    """A layer of which nothing moved."""
    return model(layer("bn", learns=False, frozen="so"), steps=Steps(3, {"bn": 0.0}, frozenset(), frozenset()))
