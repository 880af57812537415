"""Dropout in front of normalization.

What it finds:
    The input of a layer varies more with dropout than without, because there is a dropout in front of the layer,
    and the running variance is that with dropout.

Why it is bad:
    Dropout keeps the mean and adds variance; it is on in training and off at inference. Therefore the running
    variance is too large at inference, and the layer's output too small.

How it is measured:
    The doctor measures the variance of each layer's input on the same data with dropout on and off, with every norm
    on batch statistics. The stored variance must be that with dropout on. The harm is the change of the output with
    the statistics that belong to dropout off.

What to do:
    Move the dropout behind the last normalization layer; or call ``normwise.recalibrate(model, batches)``, which
    keeps dropout off.

References:
    Li et al., Understanding the disharmony between dropout and batch normalization by variance shift, 2018,
    arXiv:1801.05134.
"""

from __future__ import annotations

from collections.abc import Iterator

from normwise.doctor.costs import cost_of
from normwise.doctor.distances import costs, harm, shifted_by_dropout, variance_shift
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import ModelFacts

LIMITS = {
    "shift": (0.32, "base-2 logarithm of the variance with dropout over that without", "a quarter more; worth a note"),
    "clearly": (0.65, "base-2 logarithm of the ratio", "behind a dropout and a layer with weights it stays below 0.6"),
    "harm": (0.1, "change of the output, relative to its spread", "less costs little"),
}
HIDES = ("stale_running_statistics", "drifted_data")
ON = True
PROOF = "dropout"
LEFT = (
    "A note stays, because in training the variance still includes the dropout; to avoid it, put the dropout behind "
    "the "
    "last normalization."
)
REMEDY = "normwise.recalibrate(model, batches)"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all layers behind a dropout that shifts their variance, the most shifted first."""
    shifts = {each.name: shift for each in facts.tracked() if (shift := variance_shift(each)) > LIMITS["shift"][0]}
    if not shifts:
        return
    done = harm(facts)
    clear = {each.name for each in facts.tracked() if each.name in shifts and shifted_by_dropout(each)}
    costly = bool(clear) and bool(costs(facts))
    clearly = any(shifts[name] > LIMITS["clearly"][0] for name in clear)
    harmed = costly or (clearly and done is not None and done >= LIMITS["harm"][0])
    names = sorted(clear or shifts, key=lambda name: -shifts[name])
    evidence = {"variance with dropout over without": Number(shifts[names[0]], "powers of 2", LIMITS["shift"][0])}
    if done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", LIMITS["harm"][0])
    yield Finding(
        "dropout_before_normalization",
        tuple(names),
        Severity.NOTE if not harmed else Severity.ERROR if costly else Severity.WARNING,
        f"a dropout in front of {these(names)} makes the variance in training {2 ** shifts[names[0]]:.3g} times that "
        "at inference.",
        evidence,
        REMEDY,
        cost_of(facts) if harmed else None,
    )


def sick() -> ModelFacts:
    """A layer behind a dropout of a half."""
    return model(layer("bn", var=2.0 * 65 / 64, noisy=seen(var=2.0)), apart=0.3)


def healthy() -> ModelFacts:
    """A layer in a model whose dropouts stand behind it."""
    return model(layer("bn", noisy=seen()))
