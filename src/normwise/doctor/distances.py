"""The distance of stored statistics from those of the data, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from normwise.facts import Array, LayerFacts, ModelFacts, Seen
from normwise.moments import unbiased

FAR = 0.25
"""A mean further off than so many standard deviations is wrong."""
FAR_LOG2 = 0.5
"""A variance whose ratio to the true one has a larger base-2 logarithm is wrong."""
CHANNELS = 0.05
"""A layer is in question when more than this share of its channels is wrong."""
CLEARLY = 3.0
"""Standard errors that a difference has to exceed."""
HARM = 0.45
"""An output that changes by more, relative to its spread, when the statistics are corrected, has suffered harm.

On 300 held-out samples healthy models change by up to 0.4, because the statistics of these are their own.
"""
LOSS = 1.3
"""The loss is so many times what it is with other statistics, or more, where these matter."""
LOSS_ALONE = 2.0
"""The same where no metric confirms it: a healthy model that is sure of itself has 1.8."""
LOSS_CLEARLY = 3.0
"""The same whatever the metric says."""
METRIC = 0.12
"""The change of a metric, as a share of the larger value, that goes with harm; healthy models stay below 0.1."""
METRIC_CLEARLY = 0.5
"""The same from which a metric is enough where the loss agrees; broken models have 0.67 after a few steps."""
LOSS_AGREES = 1.1
"""The loss is so many times what it is with other statistics, or more, where it agrees with such a metric.

After a few steps of training, broken models have 1.17 or more: a loss near that of chance hardly depends on the
statistics. A model whose scales a decay shrinks has 1.06 and 1.09; its statistics lag behind, and are not the cause.
"""
OUTDONE = 1.15
"""The loss is so many times what it is with the statistics of other batches of the same data, or more.

19 of 20 healthy models stay below 1.1; sorted data, which have up to 1.9, are told apart before.
"""
OUTDONE_CLEARLY = 2.5
"""Standard errors from batch to batch that this has to exceed."""
SHARE = 0.1
"""Layers that take away less of the change of the output are not named beside those that take more."""
COMPANY = 1e-4
"""A prediction that differs by more, relative to the largest, depends on the samples beside it."""
FEW_BATCHES = 4
"""The spread between fewer batches is no reliable standard error."""


class Gap(NamedTuple):
    """The difference of a layer's stored statistics from those of its own input.

    Attributes:
        z: shape (C,), of the mean, in standard deviations.
        log2: shape (C,), of the variance, the base-2 logarithm of stored over measured.
        wrong: the share of channels that are wrong, by more than the data's own uncertainty.
    """

    z: Array
    log2: Array
    wrong: float


def gap(layer: LayerFacts, seen: Seen | None = None) -> Gap | None:
    """The gap of one layer, measured with every norm on batch statistics, so that it alone is judged.

    Args:
        layer: with ``own``, or there is no gap to tell.
        seen: what it is compared with instead of ``own``.
    """
    seen = layer.own if seen is None else seen
    if seen is None or layer.mean is None or layer.var is None:
        return None
    pooled = seen.pooled()
    spread = np.asarray(pooled.var) + layer.eps
    with np.errstate(all="ignore"):
        z = np.abs(layer.mean - pooled.mean) / np.sqrt(spread)
        log2 = np.log2((layer.var + layer.eps) / spread)
        of_mean, of_var = seen.error(layer.eps), seen.error_of_var(layer.eps) / np.log(2)
        if len(seen.mean) < FEW_BATCHES:
            least = 1 / np.sqrt(max(seen.samples.sum(), 1.0))
            of_mean = np.fmax(np.where(np.isfinite(of_mean), of_mean, 0.0), least)
            of_var = np.fmax(np.where(np.isfinite(of_var), of_var, 0.0), 2 * least)
        wrong = (z > FAR + CLEARLY * of_mean) | (np.abs(log2) > FAR_LOG2 + CLEARLY * of_var) | ~np.isfinite(z + log2)
    return Gap(z, log2, float(wrong.mean()))


def typical(found: Gap) -> tuple[float, float]:
    """The medians of a gap over its channels: in standard deviations, and the base-2 logarithm."""
    return float(np.median(found.z)), float(np.median(np.abs(found.log2)))


def suspects(layers: Iterable[LayerFacts]) -> list[str]:
    """The names of the layers in question, the most wrong first."""
    gaps = {layer.name: found for layer in layers if (found := gap(layer)) is not None}
    named = [name for name, found in gaps.items() if found.wrong > CHANNELS]
    return sorted(named, key=lambda name: -gaps[name].wrong)


def in_question(layers: Sequence[LayerFacts], number: int) -> list[str]:
    """The names of so many layers at most: the suspects, then the others, the furthest off first.

    In a stale model most layers look fine one by one.
    """
    first = suspects(layers)
    gaps = {layer.name: found for layer in layers if (found := gap(layer)) is not None}
    others = sorted(gaps.keys() - {*first}, key=lambda name: -sum(_finite(typical(gaps[name]))))
    return [*first, *others][:number]


def variance_shift(layer: LayerFacts) -> float:
    """The base-2 logarithm of a layer's input variance with dropout on over that with it off, at the median channel."""
    if layer.own is None or layer.noisy is None:
        return 0.0
    with np.errstate(all="ignore"):
        ratio = (np.asarray(layer.noisy.pooled().var) + layer.eps) / (np.asarray(layer.own.pooled().var) + layer.eps)
        return float(np.median(np.log2(ratio)))


def shifted_by_dropout(layer: LayerFacts) -> bool:
    """True if a layer's statistics are off without dropout, and right with it."""
    if variance_shift(layer) < FAR_LOG2 / 2:
        return False
    off, on = gap(layer), gap(layer, layer.noisy)
    return off is not None and on is not None and off.wrong > CHANNELS and on.wrong < off.wrong / 2


def harm(facts: ModelFacts) -> float | None:
    """The change of the output when all statistics are those of the data; None where it is unknown."""
    if facts.stored is None or facts.recalibrated is None:
        return None
    return facts.stored.apart(facts.recalibrated)


def off_at_inference(facts: ModelFacts) -> bool:
    """True if, as the model is used, some layer's input is not what its statistics say.

    Where sorted data were measured with batch statistics, layers that are right at inference look wrong.
    """
    served = [found for layer in facts.tracked() if (found := gap(layer, layer.served)) is not None]
    return any(found.wrong > CHANNELS for found in served)


def stale(facts: ModelFacts) -> list[str]:
    """The names of all layers whose statistics are off, where that does harm; else none."""
    found = suspects(facts.tracked())
    done = harm(facts)
    return found if found and off_at_inference(facts) and (done is None or harmful(facts)) else []


def without_cost(facts: ModelFacts) -> list[str]:
    """The names that ``stale`` would give if neither the loss nor the metric said that there is no harm; else none."""
    found, done = suspects(facts.tracked()), harm(facts)
    if not found or done is None or not done > HARM or costs(facts) is not False or not off_at_inference(facts):
        return []
    return found


def lagging(facts: ModelFacts, errors: float = OUTDONE_CLEARLY) -> list[str]:
    """The names of the layers to name where statistics of other batches do better, though no layer alone is far off.

    Many small errors add up in depth. The layers are those that take away most of the change of the output, or the
    furthest off where that was too small to be shared out.

    Args:
        facts: with the losses of all batches.
        errors: as of ``outdone``.
    """
    found = outdone(facts, errors)
    if found is None or not found > OUTDONE:
        return []
    names = in_question(list(facts.tracked()), len(facts.layers))
    return [name for name in names if facts.shares.get(name, 0.0) > SHARE] or names[:1]


def harmful(facts: ModelFacts) -> bool:
    """True if the statistics of these data would change the user's own numbers, or the output where there are none."""
    cost = costs(facts)
    done = harm(facts)
    return (done is not None and done > HARM) if cost is None else cost


def outdone(facts: ModelFacts, errors: float = OUTDONE_CLEARLY) -> float | None:
    """The ratio of the loss to the loss with the statistics of other batches of these data.

    A model's own statistics are of more samples than those of half of these data, which are not the samples that are
    judged: where they do worse in batch after batch, they are those of something else.

    Args:
        facts: with the losses of all batches.
        errors: standard errors from batch to batch that the difference has to exceed.

    Returns:
        The ratio; 1 where it does not exceed these errors; None where it is unknown.
    """
    now, then = facts.stored, facts.crossed
    if now is None or then is None or now.loss is None or then.loss is None or len(now.losses) != len(then.losses):
        return None
    if not np.isfinite(now.loss):
        return float("inf")
    apart = np.asarray(now.losses) - np.asarray(then.losses)
    error = np.sqrt(unbiased(apart.var(), len(apart)) / len(apart))
    return now.loss / max(then.loss, 1e-12) if apart.mean() > errors * error else 1.0


def costs(facts: ModelFacts) -> bool | None:
    """True if the loss or the metric says that the stored statistics do harm; None where there is neither.

    The direction in which a metric is good is not known, so that the loss, where there is one, must agree with it.
    """
    now, then = facts.stored, facts.recalibrated
    if now is None or then is None:
        return None
    ratio = None
    if now.loss is not None and then.loss is not None:
        ratio = now.loss / max(then.loss, 1e-12) if np.isfinite(now.loss) else np.inf
    if now.metric is None or then.metric is None:
        return None if ratio is None else bool(ratio > LOSS_ALONE)
    change = metric_change(now.metric, then.metric)
    changed = not change <= METRIC
    if ratio is None:
        return changed
    clearly = change >= METRIC_CLEARLY and ratio >= LOSS_AGREES
    return bool(ratio > LOSS_CLEARLY or (changed and ratio > LOSS) or clearly)


def metric_change(now: float, then: float) -> float:
    """The change of a metric as a share of the larger value; NaN where one of them is no finite number."""
    return float(abs(now - then) / (max(abs(now), abs(then)) or 1.0))


def _finite(values: Iterable[float]) -> list[float]:
    return [value if np.isfinite(value) else 1e9 for value in values]
