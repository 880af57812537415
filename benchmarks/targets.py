"""The targets, and whether they are met: ratios over ResNet-50's layers, weighted by count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from benchmarks.peers import COMPILED, COPY, EAGER, OURS, OURS_COMPILED
from benchmarks.rows import Row
from benchmarks.shapes import RESNET50, RESNET50_LAYERS
from benchmarks.spread import geometric_mean
from benchmarks.steps import AGAINST, BOTH, FUSED, Step

FORWARD, TRAINING, INFERENCE = "forward", "forward+backward", "inference"
# operation, pass, memory, dtype, layout: at least so many times the speed of PyTorch eager, of torch.compile
_TABLE: tuple[tuple[str, str, str, str, str, float, float], ...] = (
    ("bn+relu", FORWARD, "reused", "float32", "first", 5.0, 2.0),
    ("bn+relu", FORWARD, "reused", "float32", "last", 2.5, 1.5),
    ("bn+relu", TRAINING, "reused", "float32", "first", 4.5, 1.7),
    ("bn+relu", TRAINING, "reused", "float32", "last", 3.0, 1.7),
    ("bn+add+relu", TRAINING, "reused", "float32", "first", 4.5, 1.7),
    ("bn+add+relu", TRAINING, "reused", "float32", "last", 3.0, 1.7),
    *(
        (operation, phase, "fresh", "float32", layout, eager, 1.3)
        for (operation, phase), (layout, eager) in product(
            (("bn+relu", FORWARD), ("bn+relu", TRAINING), ("bn+add+relu", TRAINING)), (("first", 2.0), ("last", 1.5))
        )
    ),
    ("bn+relu", TRAINING, "reused", "bfloat16", "last", 3.0, 1.5),
    ("bn+add+relu", INFERENCE, "reused", "float32", "first", 2.0, 1.0),
    ("bn+add+relu", INFERENCE, "reused", "float32", "last", 2.0, 1.0),
)
NEVER_BELOW = 0.95
COPY_WITHIN, COPY_FROM = 1.3, 25e6
WORST_Y, WORST_VAR = 2e-6, 1e-6
UNDER_COMPILE = 3.0  # layers of ResNet-50, channels first, forward and backward
STEP = {FUSED: 1.25, BOTH: 1.15}  # of ResNet-50


@dataclass(frozen=True)
class Target:
    """One target and what was measured of it; ``met`` is None where nothing was."""

    text: str
    wanted: str
    measured: str
    met: bool | None
    note: str = ""
    offenders: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Mean:
    """A geometric mean over ResNet-50's layers, and over how many of its shapes."""

    dtype: str
    layout: str
    operation: str
    phase: str
    memory: str
    peer: str
    value: float
    shapes: int
    of: int


def means(rows: Iterable[Row]) -> list[Mean]:
    """One per combination and peer that was measured, over ResNet-50's layers weighted by count."""
    groups: dict[tuple[str, str, str, str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        case = row.case
        if case.shape.network == RESNET50:
            for peer, ratio in row.ratios.items():
                key = (case.dtype, case.layout, case.operation, case.phase, case.memory, peer)
                groups.setdefault(key, []).append((ratio.median, case.weight))
    return [
        Mean(
            dtype,
            layout,
            operation,
            phase,
            memory,
            peer,
            geometric_mean(pairs),
            len(pairs),
            _number_of_shapes(operation),
        )
        for (dtype, layout, operation, phase, memory, peer), pairs in groups.items()
    ]


def judge(rows: Sequence[Row], steps: Sequence[Step]) -> list[Target]:
    """Every target, met or missed or not measured."""
    found = means(rows)
    return [
        *_ratios(found),
        _worst_ratio(rows),
        *_under_compile(rows),
        _near_copy(rows),
        *_accuracy(rows),
        *_steps(steps),
    ]


def _number_of_shapes(operation: str) -> int:
    return sum(1 for shape in RESNET50_LAYERS if shape.adding or "add" not in operation)


def _ratios(found: Sequence[Mean]) -> list[Target]:
    known = {(m.operation, m.phase, m.memory, m.dtype, m.layout, m.peer): m for m in found}
    targets = []
    for *key, eager, compiled in _TABLE:
        operation, phase, memory, dtype, layout = (str(part) for part in key)
        for peer, wanted in ((EAGER, float(eager)), (COMPILED, float(compiled))):
            mean = known.get((operation, phase, memory, dtype, layout, peer))
            text = f"{operation} {phase}, {dtype}, channels {layout}, {memory}: over {peer}"
            some = "" if mean is None or mean.shapes == mean.of else f"on {mean.shapes} of {mean.of} shapes only"
            value = math.nan if mean is None else mean.value
            targets.append(_at_least(text, value, wanted, some))
    return targets


def _at_least(text: str, value: float, wanted: float, note: str = "") -> Target:
    if math.isnan(value):
        return Target(text, f"≥ {wanted:g}", "–", None, "not measured")
    return Target(text, f"≥ {wanted:g}", f"{value:.2f}", value >= wanted, note)


def _worst_ratio(rows: Sequence[Row]) -> Target:
    measured = [(row.ratios[EAGER].median, row) for row in rows if EAGER in row.ratios]
    low = sorted(((ratio, row) for ratio, row in measured if ratio < NEVER_BELOW), key=lambda pair: pair[0])
    offenders = [f"{ratio:.2f}: {row.case.name} ({row.kernel})" for ratio, row in low]
    value = min((ratio for ratio, _ in measured), default=math.nan)
    target = _at_least(f"every row: over {EAGER}", value, NEVER_BELOW, f"{len(low)} of {len(measured)} rows below")
    return Target(target.text, target.wanted, target.measured, target.met, target.note, offenders)


def _under_compile(rows: Sequence[Row]) -> list[Target]:
    """Our layer compiled against PyTorch's compiled; neither is what the row's ratios are over."""
    over = [
        (row.ratios[COMPILED].median / row.ratios[OURS_COMPILED].median, row)
        for row in rows
        if COMPILED in row.ratios and OURS_COMPILED in row.ratios
    ]
    first = [
        (ratio, row.case.weight)
        for ratio, row in over
        if row.case.shape.network == RESNET50
        and (row.case.operation, row.case.phase) == ("bn+relu", TRAINING)
        and (row.case.layout, row.case.dtype, row.case.memory) == ("first", "float32", "reused")
    ]
    text = f"bn+relu {TRAINING}, float32, channels first, reused, compiled: over {COMPILED}"
    mean = _at_least(text, geometric_mean(first), UNDER_COMPILE, f"{len(first)} shapes")
    low = [(ratio, row) for ratio, row in over if ratio < NEVER_BELOW]
    worst = _at_least(
        f"every row, compiled: over {COMPILED}",
        min((ratio for ratio, _ in over), default=math.nan),
        NEVER_BELOW,
        f"{len(low)} of {len(over)} rows below",
    )
    offenders = [f"{ratio:.2f}: {row.case.name}" for ratio, row in low]
    return [mean, Target(worst.text, worst.wanted, worst.measured, worst.met, worst.note, offenders)]


def _near_copy(rows: Sequence[Row]) -> Target:
    shares = [
        (1 / row.ratios[COPY].median, row)
        for row in rows
        if COPY in row.ratios
        and (row.case.operation, row.case.phase, row.case.layout) == ("bn+relu", FORWARD, "first")
        and (row.case.memory, row.case.dtype) == ("reused", "float32")
        and row.case.bytes >= COPY_FROM
    ]
    text = "bn+relu forward, float32, channels first, reused, 25 MB and more: time over a plain copy's, the worst"
    if not shares:
        return Target(text, f"≤ {COPY_WITHIN}", "–", None, "not measured")
    value = max(share for share, _ in shares)
    offenders = [f"{share:.2f}: {row.case.name}" for share, row in shares if share > COPY_WITHIN]
    return Target(text, f"≤ {COPY_WITHIN}", f"{value:.2f}", value <= COPY_WITHIN, f"{len(shares)} rows", offenders)


def _accuracy(rows: Sequence[Row]) -> list[Target]:
    targets = []
    judged = {(row.case.shape, row.case.layout): row for row in rows if row.case.dtype == "float32"}
    for place, what, limit in ((0, "worst |error of y| / max(1, |y|)", WORST_Y), (1, "variance", WORST_VAR)):
        errors = [
            (errors[OURS][place], f"mean/std {ratio}: {row.case.shape.name}, float32, channels {row.case.layout}")
            for row in judged.values()
            for ratio, errors in row.accuracy.items()
        ]
        text = f"float32 accuracy, mean/std 0 and 1000: {what}"
        if not errors:
            targets.append(Target(text, f"≤ {limit:g}", "–", None, "not measured"))
            continue
        value = max(error for error, _ in errors)
        offenders = [f"{error:.1e}: {name}" for error, name in errors if not error <= limit]
        note = f"{len(offenders)} of {len(errors)} above" if offenders else ""
        targets.append(Target(text, f"≤ {limit:g}", f"{value:.1e}", not offenders, note, offenders))
    return targets


def _steps(steps: Sequence[Step]) -> list[Target]:
    targets = []
    for step in steps:
        for name, wanted in STEP.items():
            if step.setting.startswith("ResNet-50"):
                value = step.ratios[name].median if name in step.ratios else math.nan
                targets.append(_at_least(f"{step.setting}: {name}, over {AGAINST[name]}", value, wanted))
            elif name in step.ratios:
                value = step.ratios[name].median
                targets.append(_at_least(f"{step.setting}: {name}, over {AGAINST[name]}", value, NEVER_BELOW))
    return targets or [_at_least("ResNet-50 training step: fused, over PyTorch", math.nan, STEP[FUSED])]
