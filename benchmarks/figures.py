"""The rows as figures: the ratio per layer, and the bandwidth that was achieved against a copy's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.cases import Case
from benchmarks.peers import COPY, EAGER, OURS
from benchmarks.rows import Row
from benchmarks.shapes import RESNET50_LAYERS
from benchmarks.spread import geometric_mean
from benchmarks.traffic import bandwidth, copy_bandwidth
from normwise.lab.results import Figure, Panel, Series

Place = tuple[str, str, str, str]


def all_of(rows: Sequence[Row]) -> list[Figure]:
    """Two figures for every dtype, operation, pass and memory treatment that was measured on two shapes or more."""
    groups: dict[Place, list[Row]] = {}
    for row in rows:
        case = row.case
        if row.milliseconds is not None and case.shape in RESNET50_LAYERS:
            groups.setdefault((case.operation, case.phase, case.dtype, case.memory), []).append(row)
    found = []
    for n, (place, group) in enumerate(groups.items()):
        if len({row.case.shape for row in group}) > 1:
            found += [_ratios(n, place, group), _roofline(n, place, group)]
    return found


def _ratios(n: int, place: Place, rows: Sequence[Row]) -> Figure:
    peers = list(dict.fromkeys(peer for row in rows for peer in row.ratios))
    panels = []
    for layout, mine in _by_layout(rows):
        series = []
        for peer in peers:
            has = [row for row in mine if peer in row.ratios]
            known = [(RESNET50_LAYERS.index(row.case.shape) + 1, row.ratios[peer]) for row in has]
            if known:
                places, spreads = zip(*sorted(known, key=lambda pair: pair[0]), strict=True)
                low, high = tuple(s.low for s in spreads), tuple(s.high for s in spreads)
                series.append(Series(peer, tuple(map(float, places)), tuple(s.median for s in spreads), low, high))
        panels.append(Panel(f"channels {layout}", tuple(series), ((1.0, "as fast as normwise"),)))
    names = ", ".join(f"{place} {shape.name}" for place, shape in enumerate(RESNET50_LAYERS, 1))
    return Figure(
        name=f"ratio_{n}",
        title="Their time over ours: " + ", ".join(place),
        caption=f"Above 1 normwise is faster; the band is the smallest and the largest of the pairs. Layers: {names}.",
        x_label="layer of ResNet-50, batch 32",
        y_label="their time / our time",
        panels=tuple(panels),
        y_scale="log",
    )


def _roofline(n: int, place: Place, rows: Sequence[Row]) -> Figure:
    panels = []
    for layout, mine in _by_layout(rows):
        ours = [(row.case, bandwidth(row.case, _ours(row))) for row in mine]
        eager = [(row.case, bandwidth(row.case, _theirs(row, EAGER))) for row in mine if EAGER in row.ratios]
        copied = [(row.case, copy_bandwidth(row.case, _theirs(row, COPY))) for row in mine if COPY in row.ratios]
        series = (_line(OURS, ours), _line(EAGER, eager), _line(COPY, copied))
        panels.append(Panel(f"channels {layout}", tuple(line for line in series if line.x)))
    return Figure(
        name=f"roofline_{n}",
        title="How near to the limit: " + ", ".join(place),
        caption=(
            "Bandwidth if only the least had been moved: x read once in the forward, x and dy once in the backward, "
            "the output written once; PyTorch moves more, which counts against it. The copy is the measured limit. "
            "Layers of one size are one point, with a band from the slowest to the fastest."
        ),
        x_label="one activation tensor, MB",
        y_label="GB/s of the least traffic",
        panels=tuple(panels),
        x_scale="log",
        y_scale="log",
    )


def _by_layout(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    layouts: dict[str, list[Row]] = {}
    for row in rows:
        layouts.setdefault(row.case.layout, []).append(row)
    return list(layouts.items())


def _ours(row: Row) -> float:
    assert row.milliseconds is not None  # all_of leaves the others out
    return row.milliseconds.median


def _theirs(row: Row, peer: str) -> float:
    return _ours(row) * row.ratios[peer].median


def _line(label: str, points: Iterable[tuple[Case, float]]) -> Series:
    sizes: dict[float, list[float]] = {}
    for case, speed in points:
        sizes.setdefault(case.bytes / 1e6, []).append(speed)
    x = tuple(sorted(sizes))
    middle = tuple(geometric_mean((speed, 1) for speed in sizes[size]) for size in x)
    return Series(label, x, middle, tuple(min(sizes[size]) for size in x), tuple(max(sizes[size]) for size in x))
