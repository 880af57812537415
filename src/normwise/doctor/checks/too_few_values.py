"""Too few values per channel in a batch.

What it finds:
    In training, a layer's batch statistics are those of very few values. As a note: the last batch has one sample
    only.

Why it is bad:
    The statistics of 2 to 4 values are mostly noise. The network learns with a scale that is off by 1.2 to 7 times
    on average, and at inference the scale is another one. The variance of one value is 0.

How it is measured:
    The doctor counts the values per channel in the calls of ``train_step`` and takes the fewest; without it, it
    takes the median over the batches given. It also prints how many of these values are independent, from the
    spread between batches.

What to do:
    Use larger batches, join the batches of several processes, freeze the layer in fine-tuning, or use a norm that
    does not depend on the batch.

References:
    facebookresearch/detectron2 issue 3545; Wu and He, Group normalization, 2018, arXiv:1803.08494.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normwise.doctor.batches_apart import seen_of
from normwise.doctor.examples import layer, model, seen
from normwise.doctor.finding import Finding, Number, Severity, Skipped
from normwise.doctor.wording import KERAS_ROWS, has, these
from normwise.facts import LayerFacts, ModelFacts

LIMITS = {
    "values": (8.0, "values per channel", "below, the gain in training is 20 % off on average; healthy models have 16"),
    "none": (2.0, "values per channel", "one value has no variance"),
}
HIDES = ("stale_running_statistics", "drifted_data")
ON = True
PROOF = "limits"
REMEDY = "batches = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)  # or torch.nn.GroupNorm"
KERAS_REMEDY = f"{KERAS_ROWS}# for fit(batch_size=64), or build with keras.layers.GroupNormalization"
WITHOUT_LAST = "batches = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)"
KERAS_WITHOUT_LAST = (
    f"{KERAS_ROWS}whole = len(keras.tree.flatten(batches)[0]) // 32 * 32  # rows in batches of 32\n"
    "batches = keras.tree.map_structure(lambda rows: rows[:whole], batches)"
)


def check(facts: ModelFacts) -> Iterator[Finding | Skipped]:
    """One finding for all such layers, the fewest values first; else a note for a last batch of one sample."""
    counts = {each.name: _count(each, facts) for each in facts.tracked() if _gathers(each, facts)}
    few = {name: count for name, count in counts.items() if count is not None and count < LIMITS["values"][0]}
    if few:
        names = sorted(few, key=lambda name: few[name])
        evidence = {"values per channel": Number(few[names[0]], "in a batch", LIMITS["values"][0])}
        effective = _effective({each.name: each for each in facts.tracked()}[names[0]])
        if effective is not None:
            evidence["independent values"] = Number(effective, "of these, estimated from the spread between batches")
        yield Finding(
            "too_few_values",
            tuple(names),
            Severity.WARNING,
            f"{these(names)} {has(names, 'has', 'have')} {few[names[0]]:g} value{'s' * (few[names[0]] != 1)} per "
            f"channel in a "
            "batch, too few for good statistics.",
            evidence,
            KERAS_REMEDY if facts.framework == "keras" else REMEDY,
        )
        return
    last = [each.name for each in facts.tracked() if each.own is not None and _alone(each) and _gathers(each, facts)]
    if last:
        yield Finding(
            "too_few_values",
            tuple(last),
            Severity.NOTE,
            f"the last batch has one value per channel for {these(last)}: in training, PyTorch refuses such a batch, "
            f"and "
            "Keras returns zeros.",
            {"values per channel": Number(1.0, "in the last batch", LIMITS["none"][0])},
            KERAS_WITHOUT_LAST if facts.framework == "keras" else WITHOUT_LAST,
        )


def _gathers(layer: LayerFacts, facts: ModelFacts) -> bool:
    """True if training uses batch statistics in this layer."""
    if facts.steps is not None:
        return layer.name in facts.steps.counts
    return layer.frozen is None


def _count(layer: LayerFacts, facts: ModelFacts) -> float | None:
    if facts.steps is not None:
        return facts.steps.counts.get(layer.name)
    return None if layer.own is None else float(np.median(layer.own.count))


def _effective(layer: LayerFacts) -> float | None:
    found = seen_of(layer)
    values = np.array([np.nan]) if found is None else found.effective_count()
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def _alone(layer: LayerFacts) -> bool:
    assert layer.own is not None  # asked before
    return bool((layer.own.count[-1] < LIMITS["none"][0]).any() and (layer.own.count[:-1] >= LIMITS["none"][0]).all())


def sick() -> ModelFacts:
    """A layer of features in batches of four."""
    return model(layer("bn", own=seen(count=4, effective=4)))


def healthy() -> ModelFacts:
    """The same in batches of 64."""
    return model(layer("bn", own=seen(count=64, effective=60)))
