"""The rows as tables for people: ratios with their ends, means, steps, and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers import COMPILED, COPY, EAGER, KERAS, OURS, OURS_COMPILED
from benchmarks.rows import Row
from benchmarks.spread import TOO_BUSY, Spread
from benchmarks.steps import AGAINST, Step
from benchmarks.targets import Mean
from benchmarks.traffic import bandwidth, copy_bandwidth
from normwise.lab.results import Table

PEERS = (EAGER, COMPILED, OURS_COMPILED, KERAS, COPY)


def all_of(rows: Sequence[Row], means: Sequence[Mean], steps: Sequence[Step]) -> list[Table]:
    """Every table that has a row."""
    return [table for table in (of_means(means), of_steps(steps), of_rows(rows), of_accuracy(rows)) if table.rows]


def of_means(means: Sequence[Mean]) -> Table:
    """One line per combination, one column per peer."""
    peers = [peer for peer in PEERS if any(mean.peer == peer for mean in means)]
    lines: dict[tuple[str, ...], dict[str, Mean]] = {}
    for mean in means:
        key = (mean.operation, mean.phase, mean.dtype, mean.layout, mean.memory)
        lines.setdefault(key, {})[mean.peer] = mean
    return Table(
        "Their time over ours: geometric means over ResNet-50's layers, weighted by how often each stands there",
        ("operation", "pass", "dtype", "channels", "memory", *peers, "shapes"),
        tuple(
            (*key, *(f"{by[peer].value:.2f}" if peer in by else "–" for peer in peers), _shapes(by))
            for key, by in lines.items()
        ),
    )


def of_rows(rows: Sequence[Row]) -> Table:
    """Every row with the spread of its ratios."""
    peers = [peer for peer in PEERS if any(peer in row.ratios or _is_busy(row, peer) for row in rows)]
    return Table(
        "Every row: their time over ours, the median of the pairs [smallest, largest]",
        (
            "shape",
            "operation",
            "pass",
            "dtype",
            "channels",
            "memory",
            "kernel",
            "ours, ms",
            *peers,
            "GB/s",
            "copy GB/s",
        ),
        tuple(
            (
                *(row.case.shape.name, row.case.operation, row.case.phase, row.case.dtype),
                *(row.case.layout, row.case.memory, row.kernel),
                *([f"REFUSED: {row.refused}"] if row.refused else [_milliseconds(row)]),
                *(_ratio(row, peer) for peer in peers),
                *_bandwidths(row),
            )
            for row in rows
        ),
    )


def of_steps(steps: Sequence[Step]) -> Table:
    """The whole networks."""
    runs = [name for name in AGAINST if any(name in step.ratios for step in steps)]
    return Table(
        "A whole training step: before over after one call of fuse(model), the median of the pairs [smallest, largest]",
        ("setting", *(f"{name}, over {AGAINST[name]}" for name in runs), "fuse(model)"),
        tuple(
            (
                f"{step.setting}: {step.skipped}" if step.skipped else step.setting,
                *(cell(step.ratios.get(name)) for name in runs),
                step.done,
            )
            for step in steps
        ),
    )


def of_accuracy(rows: Sequence[Row]) -> Table:
    """One line per shape, dtype and layout."""
    lines: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        if row.accuracy:
            lines.setdefault((row.case.shape.name, row.case.dtype, row.case.layout), row)
    sides = [(ratio, name) for ratio in ("0", "1000") for name in (OURS, EAGER)]
    return Table(
        "Accuracy against float64: the worst |error of y| / max(1, |y|), and the relative error of the variance",
        (
            "shape",
            "dtype",
            "channels",
            *(f"{name}, mean/std {ratio}: {what}" for ratio, name in sides for what in "yv"),
        ),
        tuple(
            (
                *key,
                *(
                    f"{row.accuracy[ratio][name][place]:.0e}" if ratio in row.accuracy else "–"
                    for ratio, name in sides
                    for place in (0, 1)
                ),
            )
            for key, row in lines.items()
        ),
    )


def cell(spread: Spread | None) -> str:
    """The median and the ends."""
    return "–" if spread is None else str(spread)


def _is_busy(row: Row, peer: str) -> bool:
    return row.absent.get(peer, "").startswith(TOO_BUSY)


def _ratio(row: Row, peer: str) -> str:
    return TOO_BUSY if _is_busy(row, peer) else cell(row.ratios.get(peer))


def _milliseconds(row: Row) -> str:
    return "–" if row.milliseconds is None else f"{row.milliseconds.median:.3g}"


def _bandwidths(row: Row) -> tuple[str, str]:
    if row.milliseconds is None:
        return "–", "–"
    ours = row.milliseconds.median
    copied = f"{copy_bandwidth(row.case, ours * row.ratios[COPY].median):.1f}" if COPY in row.ratios else "–"
    return f"{bandwidth(row.case, ours):.1f}", copied


def _shapes(by: dict[str, Mean]) -> str:
    fewest = min(by.values(), key=lambda mean: mean.shapes)
    return f"{fewest.shapes} of {fewest.of}"
