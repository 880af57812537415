"""Batches that are sorted, or that depend on each other.

What it finds:
    The means of the batches differ far more than those of randomly drawn batches: the data are sorted by their
    labels, or each batch resembles the one before.

Why it is bad:
    A running average forgets all but about the last twenty batches. If these batches are of one class, the mean is
    that of the class, and the variance does not include the differences between classes. In training, the batch
    also tells the network the class.

How it is measured:
    In every layer, in inference mode, the doctor compares the variance of the batches' means with that of equally
    many independent samples. Then it looks at the labels, if there are any, or at the correlation of a batch with
    the next. The finding is an error if the model has suffered: the stored variance is that within batches and the
    statistics are off on all of the data, or the batches are sorted by labels and the model does far better with
    batch statistics. It is a warning if no layer is far off, but loss and metric both improve with the statistics
    of all of the data: the statistics of the last classes are a little off in every layer, and wrong for the
    classes that came first. Otherwise it is a note, for data that are only evaluated in this order.

What to do:
    Shuffle the training data, and call ``normwise.recalibrate(model, batches)``, which includes the variance
    between batches.

References:
    pytorch/pytorch issue 4741 (windows cut from one recording).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.batches_apart import (
    APART,
    TOGETHER,
    apart,
    autocorrelation,
    clustered,
    domains,
    labels_tell,
    learned_the_batch,
    seen_of,
    sorted_share,
)
from normwise.doctor.costs import cost_of
from normwise.doctor.distances import HARM, LOSS, harm, in_question, stale, suspects
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import KERAS_ROWS, these
from normwise.facts import Array, LayerFacts, ModelFacts

LIMITS = {
    "batches": (APART, "times the variance of means of independent samples", "healthy models stay below 1.5"),
    "labels": (TOGETHER, "of the labels' variance between batches, beyond chance", "shuffled data stay below 0"),
    "next": (0.5, "correlation of a batch with the next", "shuffled data stay near 0"),
    "loss": (LOSS, "times the loss with the statistics of all of the data", "then it is a warning"),
    "answers": (0.03, "of the metric, where the loss gains too", "healthy models in sorted batches gain up to 0.01"),
    "harm": (HARM, "change of the output, relative to its spread", "as for stale statistics"),
}
HIDES = ("stale_running_statistics", "drifted_data", "inverted_momentum")
ON = True
PROOF = "statistics"
REMEDY = (
    "batches = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True); normwise.recalibrate(model, batches)"
)
KERAS_REMEDY = (
    f"{KERAS_ROWS}order = np.random.default_rng(0).permutation(len(keras.tree.flatten(batches)[0]))\n"
    "batches = keras.tree.map_structure(lambda rows: rows[order], batches)\n"
    "normwise.recalibrate(model, batches)"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for the layers between whose batches more lies than chance."""
    layers = clustered(facts) or (_measured(facts) if labels_tell(facts) else [])
    if not layers or domains(facts) is not None:
        return
    hurt = {*stale(facts)} & {each.name for each in layers if _within(each)}
    if labels_tell(facts) and learned_the_batch(facts):
        hurt = {each.name for each in layers}
    risky: set[str] = set()
    if _better(facts):
        risky = {*suspects(facts.tracked())} & {each.name for each in layers if _within(each)}
        if labels_tell(facts) and _answers(facts):
            risky |= {*in_question(layers, len(layers))[:1]}
    layers.sort(key=lambda each: (each.name not in hurt | risky, -facts.shares.get(each.name, 0.0)))
    names = [each.name for each in layers]
    found, data = apart(layers[0]), seen_of(layers[0])
    assert found is not None  # it is one of those that differ
    assert data is not None
    evidence = {
        "means of batches": Number(found.ratio, "times the variance of independent samples'", LIMITS["batches"][0]),
        "independent values": Number(found.effective, f"of {found.nominal:g} per channel in a batch"),
    }
    share = sorted_share(facts)
    if share is not None:
        evidence["labels"] = Number(share, "of their variance lies between batches, beyond chance", LIMITS["labels"][0])
    evidence["a batch and the next"] = Number(autocorrelation(data), "correlation", LIMITS["next"][0])
    done = harm(facts)
    if hurt | risky and done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", HARM)
    how = "sorted by their labels" if share is not None and share > TOGETHER else "not drawn alike"
    effect = (
        f"and the running statistics of {these(names)} are those of some batches only"
        if hurt | risky
        else "which does no harm at inference, but would in training"
    )
    yield Finding(
        "sorted_batches",
        tuple(names),
        Severity.ERROR if hurt else Severity.WARNING if risky else Severity.NOTE,
        f"the batches are {how}, {effect}.",
        evidence,
        KERAS_REMEDY if facts.framework == "keras" else REMEDY,
        cost_of(facts) if hurt | risky else None,
    )


def _better(facts: ModelFacts) -> bool:
    """True if the user's loss gains from the statistics of all of the data."""
    now, then = (None if each is None else each.loss for each in (facts.stored, facts.recalibrated))
    return now is not None and then is not None and now > LOSS * then


def _answers(facts: ModelFacts) -> bool:
    """True if the user's metric changes with the statistics of all of the data, by more than a healthy model's."""
    now, then = (None if each is None else each.metric for each in (facts.stored, facts.recalibrated))
    if now is None or then is None:
        return False
    return abs(now - then) > LIMITS["answers"][0] * max(abs(now), abs(then))


def _measured(facts: ModelFacts) -> list[LayerFacts]:
    """The layers in which the batches can be compared, the one where they differ most first."""
    found = [(each, measured) for each in facts.tracked() if (measured := apart(each)) is not None]
    return [each for each, measured in sorted(found, key=lambda pair: -pair[1].ratio)]


def _within(layer: LayerFacts) -> bool:
    """True if the stored variance is nearer to that within batches than to that of all data."""
    if layer.served is None or layer.var is None or not np.isfinite(layer.served.var).all():
        return False
    within, total = layer.served.var.mean(0) + layer.eps, np.asarray(layer.served.pooled().var) + layer.eps
    with np.errstate(all="ignore"):
        stored = np.log2(np.abs(layer.var) + layer.eps)
        nearer = np.abs(stored - np.log2(within)) < np.abs(stored - np.log2(total))
    return bool(nearer.mean() > 0.5)


def sick() -> ModelFacts:
    """Batches of one class each, and the statistics of the last ones."""
    data = seen(effective=1, count=512)
    return model(layer("bn", mean=1.0, var=1.0, own=data, served=data), apart=0.6, labels=_classes(32))


def healthy() -> ModelFacts:
    """Shuffled batches."""
    return model(layer("bn"), labels=_classes(1))


def _classes(together: int) -> list[Array]:
    labels = np.repeat(np.arange(256 // together), together) % 8
    return [each.astype(np.float64) for each in np.split(labels, 8)]
