"""Running statistics that are not those of the layer's input.

What it finds:
    The running mean or variance of a layer is not that of its input on these data, although batches have updated
    it.

Why it is bad:
    In training the layer normalizes by the batch, so nothing looks wrong. At inference it shifts and scales by
    numbers that belong to other values, and every layer behind it gets inputs that it was not trained on.

How it is measured:
    The doctor measures each layer's input with every norm on batch statistics, so that only the layers that are
    themselves wrong look wrong; some layer must be off in inference mode too. A channel is wrong if its mean is off
    by more than the limit in standard deviations, or its variance by more than the limit in powers of 2, each by
    more than three standard errors, which the spread between batches gives. Then the doctor runs the model with the
    statistics of these data in all layers, and in one layer at a time: the share of the change of the output that
    one layer causes says how much that layer contributes.

    A loss or metric decides whether the layers that are off cost anything, however much the output changes, and can
    take a finding away. The loss must be more than 2 times what it is with the statistics of these data. With a
    metric too, 3 times; or 1.3 times if the metric changes by more than 12 %; or 1.1 times if the metric changes by
    50 % or more. A metric alone must change by more than 12 %. The diagnosis lists what was taken away, with the
    numbers.

    If no layer alone is far off, the losses decide: with the running statistics, the loss must be as low as with
    statistics of every second other batch. This part needs ``examine(..., loss=...)`` and batches with targets;
    without them, the diagnosis names it among what it skipped.

    A model and data alone do not show whether the statistics are stale or the data have drifted: if these are the
    data that the model was trained on, the statistics are stale.

What to do:
    Call ``normwise.recalibrate(model, batches)`` with data like those that the model will meet.

References:
    Wu and Johnson, Rethinking "batch" in batch normalization, 2021, arXiv:2105.07576.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.batches_apart import clustered, drawn_alike
from normwise.doctor.channels import DECAYED_SHARE, decayed_share, exploding
from normwise.doctor.costs import cost_of, not_a_fault
from normwise.doctor.distances import (
    CHANNELS,
    FAR,
    FAR_LOG2,
    HARM,
    LOSS,
    OUTDONE,
    SHARE,
    costs,
    gap,
    harm,
    in_question,
    lagging,
    off_at_inference,
    outdone,
    shifted_by_dropout,
    stale,
    typical,
    without_cost,
)
from normwise.doctor.examples import layer, model
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import these
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "mean": (FAR, "standard deviations", "the median channel of a healthy layer is within 0.05"),
    "variance": (
        FAR_LOG2,
        "base-2 logarithm of the ratio",
        "healthy layers stay below 0.11 at the median, on shuffled data",
    ),
    "channels": (CHANNELS, "share of the channels", "single channels of healthy models are off"),
    "harm": (HARM, "change of the output, relative to its spread", "healthy models stay below 0.4"),
    "clear": (2 * HARM, "change of the output, relative to its spread", "then it is an error without a loss, too"),
    "loss": (LOSS, "times the loss with the statistics of these data", "where the metric changes too"),
    "together": (4.0, "times the loss with the statistics of these data", "where no layer alone is off"),
    "outdone": (
        OUTDONE,
        "times the loss with the statistics of other batches of these data",
        "19 of 20 healthy models stay below 1.1; sorted data have up to 1.9",
    ),
    "share": (SHARE, "share of the change", "layers that are less guilty are not named beside the guilty"),
}
HIDES = ()
ON = True
PROOF = "statistics"
PART = "in the model as a whole, where no single layer is far off"
"""The part of it that needs a loss."""
REMEDY = "normwise.recalibrate(model, batches)"


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all stale layers, the one with the largest share in the change of the output first."""
    layers = {each.name: each for each in facts.tracked()}
    behind = _behind_another_gain(facts) | _behind_shrinking_scales(facts)
    names = [name for name in stale(facts) if not _other_cause(layers[name]) and name not in behind]
    free = [name for name in without_cost(facts) if not _other_cause(layers[name]) and name not in behind]
    done = harm(facts)
    known = done is not None and np.isfinite(done)
    if not names and known and not behind and not any(map(_other_cause, layers.values())):
        names = _together(facts, done or 0.0)
    if not names:
        if free:
            yield not_a_fault("stale_running_statistics", free, facts)
        if facts.stored is not None and facts.stored.loss is None and "gradients" in facts.missing and layers:
            yield Skipped("stale_running_statistics", facts.missing["gradients"], PART)  # both need the loss
        return
    names += [
        name for name, share in facts.shares.items()
        if share > LIMITS["share"][0] and name not in names and name not in behind
    ]  # fmt: skip
    guilty = sorted(names, key=lambda name: -facts.shares.get(name, 0.0))
    worst = gap(layers[guilty[0]])
    assert worst is not None  # it was measured
    z, log2 = typical(worst)
    evidence = {
        "mean off, median channel": Number(z, "standard deviations", FAR),
        "variance off, median channel": Number(log2, "powers of 2", FAR_LOG2),
        "share of channels that are off": Number(worst.wrong, "", CHANNELS),
    }
    change = ""
    if known and done is not None:
        evidence["change of the output"] = Number(done, "relative to its spread", HARM)
        change = f", and with those of the input the output would change by {done:.0%} of its spread"
    ratio = outdone(facts)
    if ratio is not None and np.isfinite(ratio):
        evidence["loss"] = Number(ratio, "times the loss with the statistics of other batches", OUTDONE)
    if guilty[0] in facts.shares and np.isfinite(facts.shares[guilty[0]]):
        evidence["share of the change"] = Number(facts.shares[guilty[0]], "by this layer alone")
    yield Finding(
        "stale_running_statistics",
        tuple(guilty),
        _severity(facts, done),
        f"the running statistics of {these(guilty)} do not fit the input{change}: the running statistics are stale, or "
        f"these data "
        "are unlike the training data.",
        evidence,
        REMEDY,
        cost_of(facts),
    )


def _behind_another_gain(facts: ModelFacts) -> set[str]:
    """The layers whose input is another one because a layer in front multiplies it by another gain, which is named."""
    eps = {} if facts.source is None else facts.source.eps
    found: set[str] = set()
    after = False
    for each in facts.tracked():
        if after:
            found.add(each.name)
        after = after or bool(exploding(each).any()) or eps.get(each.name, each.eps) != each.eps
    return found


def _behind_shrinking_scales(facts: ModelFacts) -> set[str]:
    """The layers whose running variance is behind an input that shrinks in every step, with the scales in front.

    A decay that has brought some layer's scales next to nothing acts on the others' too. The average of the last steps
    is then too large, and the mean is hardly off. Statistics that are off in another way have another cause, and so
    have those of the first layer, in front of which there are no scales.
    """
    layers = list(facts.tracked())
    if not any(decayed_share(each) > DECAYED_SHARE for each in layers):
        return set()
    gaps = {each.name: found for each in layers[1:] if (found := gap(each)) is not None}
    return {name for name, found in gaps.items() if float(np.median(found.log2)) > 0 and typical(found)[0] < FAR}


def _other_cause(layer: LayerFacts) -> bool:
    """True if a layer's statistics are off for a reason that another check names."""
    assert layer.mean is not None  # it is one of those that have statistics
    assert layer.var is not None
    return not np.isfinite(layer.mean + layer.var).all() or bool((layer.var < 0).any()) or shifted_by_dropout(layer)


def _together(facts: ModelFacts, done: float) -> list[str]:
    """The guilty layers where the output changes a lot, and no layer is far off by itself."""
    now, then = (None if each is None else each.loss for each in (facts.stored, facts.recalibrated))
    if drawn_alike(facts) and (names := lagging(facts)):
        return names
    if done < HARM or now is None or then is None or not now > LIMITS["together"][0] * then:
        return []
    if clustered(facts) or not off_at_inference(facts):
        return []
    names = in_question(list(facts.tracked()), len(facts.layers))
    return [name for name in names if facts.shares.get(name, 0.0) > LIMITS["share"][0]]


def _severity(facts: ModelFacts, done: float | None) -> Severity:
    clear = costs(facts) or done is None or done > LIMITS["clear"][0]
    return Severity.ERROR if clear else Severity.WARNING


def sick() -> ModelFacts:
    """A layer whose mean is one standard deviation off."""
    return model(layer("bn", mean=1.0), apart=1.0)


def healthy() -> ModelFacts:
    """A layer with the statistics of its input."""
    return model(layer("bn"))
