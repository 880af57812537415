"""The numbers that the limits of the checks are compared with, measured on healthy models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

import normwise.doctor.examination
from benchmarks.doctor.digits import DATA
from benchmarks.doctor.judging import healthy_model
from normwise.doctor import batches_apart, channels, check, distances
from normwise.doctor.checks import cancelling_variance, wrong_axis
from normwise.facts import LayerFacts, ModelFacts

Measure = Callable[[ModelFacts], float]


class Measured(NamedTuple):
    """A number that a limit is for.

    Attributes:
        limit: the checks' value.
        of: the facts of a model -> the number; NaN where it is unknown.
        beyond: whether a sick model is above the limit, and not below.
    """

    limit: float
    of: Measure
    beyond: bool = True


def _largest(facts: ModelFacts, of: Callable[[LayerFacts], float | None]) -> float:
    found = [value for layer in facts.tracked() if (value := of(layer)) is not None and np.isfinite(value)]
    return max(found, default=np.nan)


def _gap(which: int) -> Measure:
    def of(layer: LayerFacts) -> float | None:
        found = distances.gap(layer)
        return None if found is None else (*distances.typical(found), found.wrong)[which]

    return lambda facts: _largest(facts, of)


def _loss(facts: ModelFacts) -> float:
    now, then = facts.stored, facts.recalibrated
    known = now is not None and then is not None and now.loss is not None and then.loss is not None
    return now.loss / then.loss if known else np.nan  # type: ignore[union-attr, operator]  # it is known


def _metric(facts: ModelFacts) -> float:
    now, then = facts.stored, facts.recalibrated
    if now is None or then is None or now.metric is None or then.metric is None:
        return np.nan
    return abs(now.metric - then.metric) / max(abs(now.metric), abs(then.metric), 1e-12)


def _apart(which: str) -> Callable[[LayerFacts], float | None]:
    def of(layer: LayerFacts) -> float | None:
        found = batches_apart.apart(layer)
        return None if found is None else float(getattr(found, which))

    return of


def _spread(layer: LayerFacts) -> float | None:
    if layer.own is None:
        return None
    out = channels.gain(layer) * np.sqrt(np.asarray(layer.own.pooled().var))
    return float(out[~channels.constant(layer)].max(initial=0.0))


def _groups(layer: LayerFacts) -> float | None:
    seen = batches_apart.seen_of(layer)
    found = None if seen is None else batches_apart.two_groups(seen)
    return None if found is None else found[1]


MEASURED: dict[str, Measured] = {
    "stale_running_statistics: mean": Measured(distances.FAR, _gap(0)),
    "stale_running_statistics: variance": Measured(distances.FAR_LOG2, _gap(1)),
    "stale_running_statistics: channels": Measured(distances.CHANNELS, _gap(2)),
    "stale_running_statistics: harm": Measured(distances.HARM, lambda facts: distances.harm(facts) or np.nan),
    "stale_running_statistics: loss": Measured(distances.LOSS, _loss),
    "stale_running_statistics: metric": Measured(distances.METRIC, _metric),
    "stale_running_statistics: outdone": Measured(
        distances.OUTDONE, lambda facts: np.nan if (found := distances.outdone(facts)) is None else found
    ),
    "stale_running_statistics: outdone, whatever the errors": Measured(
        distances.OUTDONE,
        lambda facts: np.nan if (found := distances.outdone(facts, errors=-np.inf)) is None else found,
    ),
    "batch_dependent_output: difference": Measured(
        distances.COMPANY, lambda facts: np.nan if facts.company is None else facts.company.apart
    ),
    "sorted_batches: batches": Measured(batches_apart.APART, lambda facts: _largest(facts, _apart("ratio"))),
    "sorted_batches: labels": Measured(
        batches_apart.TOGETHER, lambda facts: np.nan if (s := batches_apart.sorted_share(facts)) is None else s
    ),
    "mixed_domains: groups": Measured(batches_apart.CLUSTERS, lambda facts: _largest(facts, _groups)),
    "exploding_channels: gain": Measured(
        channels.LARGE_GAIN, lambda facts: _largest(facts, lambda layer: float(channels.gain(layer).max()))
    ),
    "exploding_channels: spread": Measured(channels.LARGE_SPREAD, lambda facts: _largest(facts, _spread)),
    "dead_channels: share": Measured(
        check.load("dead_channels").LIMITS["share"][0],
        lambda facts: _largest(
            facts, lambda layer: float((channels.constant(layer) | channels.lost_scale(layer)).mean())
        ),
    ),
    "decayed_scales: share": Measured(channels.DECAYED_SHARE, lambda facts: _largest(facts, channels.decayed_share)),
    "cancelling_variance: ratio": Measured(
        cancelling_variance.LIMITS["ratio"][0], lambda facts: _largest(facts, cancelling_variance._ratio)
    ),
    "wrong_axis: between": Measured(wrong_axis.LIMITS["between"][0], lambda facts: _largest(facts, wrong_axis._ratio)),
    "dropout_before_normalization: shift": Measured(
        check.load("dropout_before_normalization").LIMITS["shift"][0],
        lambda facts: _largest(facts, distances.variance_shift),
    ),
    "too_few_values: values": Measured(
        check.load("too_few_values").LIMITS["values"][0],
        lambda facts: (
            -_largest(facts, lambda layer: None if layer.own is None else -float(layer.own.count.max(0).min()))
        ),
        beyond=False,
    ),
}


def measured(data: str, name: str, kind: str, seed: int) -> tuple[str, dict[str, float]]:
    """Every number of one healthy model, and what the model is called."""
    DATA.set(data)
    model, batches, given = healthy_model(name, kind, seed)
    kept = kept_facts(model, batches, given)
    return f"{name}, {kind}, seed {seed}", {label: each.of(kept) for label, each in MEASURED.items()}


def kept_facts(model: Any, batches: Any, given: dict[str, Any]) -> ModelFacts:
    """The facts that an examination gathers."""
    kept: list[ModelFacts] = []
    run = check.run

    def keep(wanted: Iterable[str], facts: ModelFacts) -> Any:
        kept.append(facts)
        return run(wanted, facts)

    room = normwise.doctor.examination
    try:
        room.run = keep  # type: ignore[attr-defined]  # an examination gives findings and keeps no facts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in the judging
            normwise.doctor.examine(model, batches, **given)
    finally:
        room.run = run  # type: ignore[attr-defined]  # as above
    return kept[0]


def table(found: Sequence[tuple[str, dict[str, float]]]) -> str:
    """The furthest of all healthy models beside each limit, and which model that is."""
    lines = [
        "| limit | value | furthest healthy model | 95 % of them | which it is |",
        "|---|---|---|---|---|",
    ]
    for label, each in MEASURED.items():
        rows = [(row[label], name) for name, row in found if np.isfinite(row[label])]
        if rows:
            worst = (max if each.beyond else min)(rows)
            most = np.quantile([value for value, _ in rows], 0.95 if each.beyond else 0.05)
            lines.append(f"| {label} | {each.limit:g} | {worst[0]:.3g} | {most:.3g} | {worst[1]} |")
    return "\n".join([f"{len(found)} healthy models:", "", *lines])
