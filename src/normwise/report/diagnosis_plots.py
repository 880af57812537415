"""The plot that proves a finding, as SVG that needs no script: numbers in, an element out, every name escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from normwise.doctor.channels import gain
from normwise.doctor.check import load
from normwise.doctor.finding import Finding
from normwise.facts import Array, LayerFacts, ModelFacts
from normwise.report.wording import printable

WIDTH, HEIGHT, ROW = 360, 260, 22
MOST_ROWS = 12


@dataclass(frozen=True)
class Plot:
    """One drawing and the sentence below it.

    Args:
        svg: an ``<svg>`` element.
        caption: what it shows.
    """

    svg: str
    caption: str


def plots(finding: Finding, facts: ModelFacts) -> list[Plot]:
    """The plots that prove a finding, as its check says in ``PROOF``; else its numbers against their limits."""
    return DRAWN[load(finding.check).PROOF](finding, facts) or _limits(finding, facts)


def _statistics(finding: Finding, facts: ModelFacts) -> list[Plot]:
    """Stored against measured statistics of the first layer, and the layers' shares in the change of the output."""
    first = _first(finding, facts)
    found = [] if first is None else _stored_and_measured(first)
    known = {name: facts.shares.get(name, math.nan) for name in finding.layers}
    shares = {name: share for name, share in known.items() if math.isfinite(share)}
    if found and shares:
        caption = "How much of the change of the output goes away when the statistics of one layer alone are corrected."
        found.append(Plot(bars(shares, "share of the change of the output"), caption))
    return found


def _updates(finding: Finding, facts: ModelFacts) -> list[Plot]:
    counted = {} if facts.steps is None else facts.steps.updates
    updates = {name: counted[name] for name in finding.layers if name in counted}
    caption = "How often the running statistics of each layer changed in one step of the optimizer."
    return [Plot(bars(updates, "updates per step", mark=1.0), caption)] if updates else []


def _dropout(finding: Finding, facts: ModelFacts) -> list[Plot]:
    layers = {layer.name: layer for layer in facts.layers}
    ratios = {name: ratio for name in finding.layers if (ratio := _noise(layers.get(name))) is not None}
    caption = "The variance of each layer's input with dropout on, as in training, over that at inference."
    return [Plot(bars(ratios, "variance with dropout over without", mark=1.0), caption)] if ratios else []


def _gradients(_: Finding, facts: ModelFacts) -> list[Plot]:
    caption = "The root mean square of the gradient of the loss at each layer's input, in order of depth."
    return [Plot(bars(facts.gradients, "gradient of the loss", log=True), caption)] if facts.gradients else []


def _gain(finding: Finding, facts: ModelFacts) -> list[Plot]:
    first = _first(finding, facts)
    if first is None or first.var is None:
        return []
    caption = f"The gain of each channel of layer {first.name!r}: scale over the running standard deviation."
    return [Plot(histogram(np.log10(np.maximum(gain(first), 1e-12)), "log10 of the gain"), caption)]


def _limits(finding: Finding, _: ModelFacts) -> list[Plot]:
    over = {
        name: number.value / number.limit
        for name, number in finding.evidence.items()
        if number.limit and math.isfinite(number.value)
    }
    caption = "Each number as a multiple of its limit."
    return [Plot(bars(over, "measured over the limit", mark=1.0), caption)] if over else []


DRAWN: dict[str, Callable[[Finding, ModelFacts], list[Plot]]] = {
    "statistics": _statistics,
    "updates": _updates,
    "dropout": _dropout,
    "gradients": _gradients,
    "gain": _gain,
    "limits": _limits,
}


def _first(finding: Finding, facts: ModelFacts) -> LayerFacts | None:
    return next((layer for layer in facts.layers if layer.name in finding.layers[:1]), None)


def _stored_and_measured(layer: LayerFacts) -> list[Plot]:
    if layer.own is None or layer.mean is None or layer.var is None:
        return []
    pooled = layer.own.pooled()
    mean, var = np.asarray(pooled.mean), np.asarray(pooled.var)
    name = printable(layer.name or "(the model)")
    return [
        Plot(scatter(mean, layer.mean, "mean of the data", "running mean"), f"Each channel of layer {name!r}: on the "
             "line, the running mean is that of the data."),
        Plot(scatter(np.sqrt(var), np.sqrt(np.maximum(layer.var, 0)), "deviation of the data", "running deviation"),
             f"The same for the standard deviation of layer {name!r}."),
    ]  # fmt: skip


def _noise(layer: LayerFacts | None) -> float | None:
    if layer is None or layer.noisy is None or layer.own is None:
        return None
    return float(
        np.median(np.asarray(layer.noisy.pooled().var) / np.maximum(np.asarray(layer.own.pooled().var), 1e-30))
    )


def scatter(x: Array, y: Array, x_label: str, y_label: str) -> str:
    """Points with the line on which both are the same.

    Args:
        x: shape (C,).
        y: shape (C,); points that are not finite are left out.
        x_label: below.
        y_label: above.
    """
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    both = np.concatenate([x, y]) if len(x) else np.zeros(1)
    low, high = float(both.min()), float(both.max())
    pad = 0.06 * (high - low or 1.0)
    low, high = low - pad, high + pad
    left, top, right, bottom = 46, 26, WIDTH - 12, HEIGHT - 40

    def at(value: float, begin: float, end: float) -> float:
        return begin + (value - low) / (high - low) * (end - begin)

    dots = "".join(
        f'<circle cx="{at(a, left, right):.1f}" cy="{at(b, bottom, top):.1f}" r="3"/>'
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    )
    ticks = "".join(
        f'<text x="{at(v, left, right):.1f}" y="{bottom + 16}" text-anchor="middle">{v:.3g}</text>'
        f'<text x="{left - 6}" y="{at(v, bottom, top) + 4:.1f}" text-anchor="end">{v:.3g}</text>'
        for v in (low + pad, (low + high) / 2, high - pad)
    )
    body = (
        f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>'
        f'<path class="mark" d="M{left} {bottom}L{right} {top}"/>'
        f'<g class="dots">{dots}</g>{ticks}'
        f'<text x="{left}" y="14">{escape(y_label)}</text>'
        f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>'
    )
    return _svg(body, WIDTH, HEIGHT, f"{y_label} against {x_label}")


def bars(values: Mapping[str, float], label: str, *, mark: float | None = None, log: bool = False) -> str:
    """A bar for each name, the first ones of many.

    Args:
        values: the name -> the number.
        label: what they are.
        mark: where to draw a line, for example at a limit.
        log: whether lengths are those of the logarithms.
    """
    rows = list(values.items())[:MOST_ROWS]
    numbers = [value if math.isfinite(value) else 0.0 for _, value in rows]
    if log:
        logs = [math.log10(max(value, 1e-30)) for value in numbers]
        least = min(logs) - 0.5
        lengths, top = [each - least for each in logs], max(logs) - least
    else:
        lengths, top = [max(each, 0.0) for each in numbers], max([*numbers, mark or 0.0]) or 1.0
    left, right, height = 132, WIDTH - 52, 30 + ROW * len(rows)
    parts = [f'<text x="{left}" y="14">{escape(label)}</text>']
    for place, ((name, value), length) in enumerate(zip(rows, lengths, strict=True)):
        y = 24 + ROW * place
        wide = max(1.0, length / top * (right - left))
        short = shortened(printable(name or "(the model)"), 20)
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(short)}</text>'
            f'<rect class="bar" x="{left}" y="{y + 2}" width="{wide:.1f}" height="{ROW - 7}"/>'
            f'<text x="{left + wide + 5:.1f}" y="{y + 13}">{value:.3g}</text>'
        )
    if mark is not None and not log:
        x = left + mark / top * (right - left)
        parts.append(f'<path class="mark" d="M{x:.1f} 20V{height - 4}"/>')
    return _svg("".join(parts), WIDTH, height, label)


def histogram(values: Array, label: str) -> str:
    """A plot of how many channels have which value."""
    values = values[np.isfinite(values)]
    counts, edges = np.histogram(values if len(values) else np.zeros(1), bins=16)
    left, right, top, bottom = 12, WIDTH - 12, 26, HEIGHT - 40
    step = (right - left) / len(counts)
    most = max(int(counts.max()), 1)
    parts = [
        f'<rect class="bar" x="{left + step * place:.1f}" y="{bottom - count / most * (bottom - top):.1f}" '
        f'width="{step - 2:.1f}" height="{count / most * (bottom - top):.1f}"/>'
        for place, count in enumerate(counts.tolist())
    ]
    parts += [
        f'<path class="axis" d="M{left} {bottom}H{right}"/>',
        f'<text x="{left}" y="{bottom + 16}">{edges[0]:.3g}</text>',
        f'<text x="{right}" y="{bottom + 16}" text-anchor="end">{edges[-1]:.3g}</text>',
        f'<text x="{right}" y="{HEIGHT - 6}" text-anchor="end">{escape(label)}</text>',
        f'<text x="{left}" y="14">channels, at most {most}</text>',
    ]
    return _svg("".join(parts), WIDTH, HEIGHT, label)


def _svg(body: str, width: int, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


@dataclass(frozen=True)
class Healthy:
    """A layer in the strip of all of them.

    Args:
        name: its path.
        health: ``"error"``, ``"warning"``, ``"note"`` or ``"fine"``.
        why: what was found, in words.
        finding: the number of the worst finding that names it, from 1; 0 where there is none.
    """

    name: str
    health: str
    why: str
    finding: int = 0

    @property
    def short(self) -> str:
        """Its path, without the middle of a long one."""
        return shortened(self.name or "(the model)", 28)


def shortened(name: str, most: int) -> str:
    """A name without its middle, where it has more characters than ``most``.

    Example:
        >>> shortened("encoder.layer.11.output.norm", 20), shortened("bn1", 20)
        ('encoder.l…utput.norm', 'bn1')
    """
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[head + 1 - most :]}"


def strip(facts: ModelFacts, findings: Sequence[Finding]) -> list[Healthy]:
    """The layers in the order of their calls."""
    worst: dict[str, tuple[str, str, int]] = {}
    for number, finding in reversed([*enumerate(findings, start=1)]):  # the worst come first in them, and stay
        for name in finding.layers:
            worst[name] = (str(finding.severity), finding.check.replace("_", " "), number)
    return [Healthy(layer.name, *worst.get(layer.name, ("fine", "nothing found"))) for layer in facts.layers]
