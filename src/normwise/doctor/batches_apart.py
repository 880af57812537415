"""A test of whether batches are drawn alike, by the differences of their means."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from normwise.doctor.channels import Mask
from normwise.doctor.distances import FAR, FEW_BATCHES, LOSS, METRIC
from normwise.facts import Array, LayerFacts, ModelFacts, Seen

APART = 4.0
"""The factor by which the means of batches may differ more than those of independent samples would."""
RARE = 3.72
"""Standard deviations of a normal distribution that one in ten thousand exceeds."""
CLUSTERS = 8.0
"""Two groups of batches are clusters when they are so many times further apart than what lies within them."""
TOGETHER = 0.02
"""The share of the labels' variance, beyond chance, that may lie between batches before they count as sorted."""


class Apart(NamedTuple):
    """The differences between the batches of one layer's input.

    Attributes:
        ratio: of the variance of the batches' means to that of independent samples, at the median channel.
        limit: of the ratio, for so many batches.
        effective: the number of independent values that a batch is worth, at the median channel.
        nominal: the number of values per channel in a batch.
    """

    ratio: float
    limit: float
    effective: float
    nominal: float


def seen_of(layer: LayerFacts) -> Seen | None:
    """The moments of a layer's input at inference, where these are finite; else those with batch statistics."""
    served = layer.served
    if served is not None and np.isfinite(served.mean).all():
        return served
    return layer.own


def apart(layer: LayerFacts) -> Apart | None:
    """The distance of the batches of one layer's input from being drawn alike; None for a few batches.

    The samples of a batch are independent if the loader shuffles, so that its mean is worth at least as many values as
    it has samples, however alike the values of one sample are.
    """
    seen = seen_of(layer)
    if seen is None or len(seen.mean) < FEW_BATCHES:
        return None
    with np.errstate(all="ignore"):
        effective = seen.effective_count()
        moving = np.isfinite(effective) & (np.asarray(seen.pooled().var) > 1e-12)
    if not moving.any():
        return None
    middle = float(np.median(effective[moving]))
    freedom = len(seen.mean) - 1
    rare = (1 - 2 / (9 * freedom) + RARE * np.sqrt(2 / (9 * freedom))) ** 3
    nominal = float(np.median(seen.count))
    return Apart(float(seen.samples.mean()) / max(middle, 1e-12), max(APART, float(rare)), middle, nominal)


def clustered(facts: ModelFacts) -> list[LayerFacts]:
    """The layers between whose batches more lies than chance, in the order of their calls."""
    found = ((layer, apart(layer)) for layer in facts.tracked())
    return [layer for layer, each in found if each is not None and each.ratio > each.limit]


def drawn_alike(facts: ModelFacts) -> bool:
    """True if batches can be judged by the statistics of the others: neither their means nor their labels say no."""
    return not clustered(facts) and not labels_tell(facts)


def learned_the_batch(facts: ModelFacts) -> bool:
    """True if the model does far better with batch statistics than at inference, by the user's loss or metric."""
    now, then = facts.stored, facts.by_batch
    if now is None or then is None:
        return False
    if now.loss is not None and then.loss is not None:
        return not now.loss <= LOSS * then.loss
    return now.metric is not None and then.metric is not None and then.metric > (1 + METRIC) * now.metric


def labels_tell(facts: ModelFacts) -> bool:
    """True if the labels differ between batches by more than chance: the data are sorted by them."""
    share = sorted_share(facts)
    return share is not None and share > TOGETHER


def sorted_share(facts: ModelFacts) -> float | None:
    """The share of the labels' variance that lies between batches, beyond what chance puts there; or None.

    Classes are no quantities, so that each is asked by itself: is a sample of it, yes or no?
    """
    batches = [each for each in facts.labels or () if len(each)]
    if len(batches) < 2:
        return None
    every = np.concatenate(batches)
    values = np.unique(every)
    classes = len(values) <= min(64, len(every) / 2)
    marks = [(every == value) * 1.0 for value in values] if classes else [every]
    ends = np.cumsum([len(each) for each in batches])[:-1]
    total = sum(float(mark.var()) for mark in marks)
    between = sum(
        len(part) * (part.mean() - mark.mean()) ** 2 for mark in marks for part in np.split(mark, ends)
    ) / len(every)
    if total == 0:
        return None
    chance, spread = (len(batches) - 1) / len(every), np.sqrt(2 * (len(batches) - 1)) / len(every)
    return float(between / total - chance - RARE * spread)


def autocorrelation(seen: Seen) -> float:
    """The correlation of a batch's means with those of the next, over all channels."""
    if len(seen.mean) < FEW_BATCHES:
        return 0.0
    about = _standardized(seen)
    return float((about[1:] * about[:-1]).sum() / max((about[:-1] ** 2).sum(), 1e-300))


def two_groups(seen: Seen) -> tuple[Mask, float] | None:
    """The best two groups of batches by their means, True and False, and how far apart; None for too few batches.

    How far: the distance of their centres along the line between them, in standard deviations within the groups.
    """
    if len(seen.mean) < 2 * FEW_BATCHES:
        return None
    about = _standardized(seen)
    line = np.linalg.svd(about, full_matrices=False)[0][:, 0]
    order = np.argsort(line)
    best: tuple[float, Mask] | None = None
    for cut in range(2, len(line) - 1):
        one, other = line[order[:cut]], line[order[cut:]]
        within = np.sqrt((((one - one.mean()) ** 2).sum() + ((other - other.mean()) ** 2).sum()) / (len(line) - 2))
        far = float((other.mean() - one.mean()) / max(within, 1e-12))
        if best is None or far > best[0]:
            group = np.zeros(len(line), dtype=bool)
            group[order[cut:]] = True
            best = (far, group)
    return None if best is None else (best[1], best[0])


def _standardized(seen: Seen) -> Array:
    pooled = seen.pooled()
    found: Array = (seen.mean - seen.mean.mean(0)) / np.sqrt(np.asarray(pooled.var) + 1e-12)
    return found


class Domains(NamedTuple):
    """Two groups of batches.

    Attributes:
        far: how far apart, in deviations within the groups.
        distance: of their means, in standard deviations, at the median channel.
        layer: where that is.
    """

    far: float
    distance: float
    layer: str


def domains(facts: ModelFacts) -> Domains | None:
    """The two groups into which the batches fall, in the layer where they are clearest; None where they do not."""
    if labels_tell(facts):
        return None
    best: Domains | None = None
    for layer in facts.tracked():
        seen = seen_of(layer)
        found = None if seen is None else two_groups(seen)
        if seen is None or found is None or found[1] < CLUSTERS:
            continue
        group, far = found
        about = np.abs(seen.mean[group].mean(0) - seen.mean[~group].mean(0))
        distance = float(np.median(about / np.sqrt(np.asarray(seen.pooled().var) + layer.eps)))
        if distance > FAR and (best is None or far > best.far):
            best = Domains(far, distance, layer.name)
    return best
