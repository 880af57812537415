"""The cost of each layer of the family against PyTorch's batch norm: ``make bench ARGS="--part family"``.

Two shapes of ResNet-50 in both layouts, one thread, float32, everyone in turn, memory kept between calls for everyone.
The time is the thread's own on the processor, so that the turns of other processes are not in it.
Writes ``benchmarks/results/family.json`` and docs/speed_of_the_family.md; ``python -m benchmarks.family --whitening``
prints the table of the whitening layers instead.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import parts
from benchmarks.kept import RESULTS, Conditions, keep
from benchmarks.memory import treat
from benchmarks.spread import ATTEMPTS, TOO_BUSY, WIDEST, Spread, calmest, ratios, spread, widest
from benchmarks.timing import in_turn, seconds_of_thread
from normwise import torch as nt

PAGE = Path(__file__).resolve().parents[1] / "docs" / "speed_of_the_family.md"
PEER = "torch.nn.BatchNorm2d"
SHAPES = ((32, 64, 56, 56), (32, 256, 14, 14))
FEATURES = (256, 512)
GROUPS = (16, 64)
LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}
PHASES = ("training", "inference")
ROUNDS = 41

QUICK_ROUNDS = 9

Layer = Callable[[Tensor], Tensor]
Times = dict[str, list[float]]
Ratios = dict[str, dict[str, Spread]]
"""The ratios of each layer, by peer."""


def layers(shape: tuple[int, ...], *, training: bool) -> dict[str, tuple[nn.Module, Layer]]:
    """Each layer, and how it is called; their statistics are those of one batch."""
    channels, side = shape[1], shape[2]
    # A third of the places of every image is padding.
    mask = (torch.arange(side) < side - side // 3).expand(shape[0], 1, side, side).contiguous()
    masked, domains = nt.BatchNorm2d(channels), nt.PerDomain(nt.BatchNorm2d(channels), ["day", "night"])
    plain: dict[str, nn.Module] = {
        PEER: nn.BatchNorm2d(channels),
        "BatchNorm2d": nt.BatchNorm2d(channels),
        "BatchRenorm2d": nt.BatchRenorm2d(channels),
        "GhostBatchNorm2d, 4 parts": nt.GhostBatchNorm2d(channels, num_splits=4),
        "GhostBatchNorm2d, 4 parts, interleaved": nt.GhostBatchNorm2d(channels, num_splits=4, order="interleaved"),
    }
    found: dict[str, tuple[nn.Module, Layer]] = {name: (layer, layer) for name, layer in plain.items()}
    found["BatchNorm2d, a third masked"] = masked, lambda x: masked(x, mask=mask)
    found["PerDomain(BatchNorm2d), 2 domains"] = domains, lambda x: domains(x, domain="day")
    for layer, call in found.values():
        call(torch.randn(shape))
        layer.train(training)
    return found


def whitening_layers(shape: tuple[int, ...], size: int, *, training: bool) -> dict[str, tuple[nn.Module, Layer]]:
    """Those that whiten groups of that size, and both batch norms."""
    channels, images = shape[1], len(shape) == 4
    found: dict[str, nn.Module] = {
        "torch": nn.BatchNorm2d(channels) if images else nn.BatchNorm1d(channels),
        "ours": nt.BatchNorm2d(channels) if images else nt.BatchNorm1d(channels),
        "ZCA": (nt.DecorrelatedBatchNorm2d if images else nt.DecorrelatedBatchNorm1d)(channels, group_size=size),
        "iterative": (nt.IterativeNorm2d if images else nt.IterativeNorm1d)(channels, group_size=size),
    }
    for layer in found.values():
        layer(torch.randn(shape))
        layer.train(training)
    return {name: (layer, layer) for name, layer in found.items()}


def calls(shape: tuple[int, ...], layout: str, phase: str) -> dict[str, Callable[[], object]]:
    """The calls that are timed, of all layers: inference, or forward and backward."""
    x, dy = (torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    return timed_calls(layers(shape, training=phase == "training"), x, dy, training=phase == "training")


def timed_calls(
    layers: Mapping[str, tuple[nn.Module, Layer]], x: Tensor, dy: Tensor, *, training: bool
) -> dict[str, Callable[[], object]]:
    """The calls that are timed, of these layers."""

    def timed(layer: nn.Module, call: Layer) -> Callable[[], object]:
        learns = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        leaves = (learns, *layer.parameters())

        def inference() -> object:
            with torch.no_grad():
                return call(x)

        def both() -> object:
            return torch.autograd.grad(call(learns), leaves, dy)

        return both if training else inference

    return {name: timed(*each) for name, each in layers.items()}


def measured(calls: Mapping[str, Callable[[], object]], peers: Sequence[str], *, rounds: int) -> tuple[Times, Ratios]:
    """Seconds of the processor per call, in turn, and the ratios of all to each of the peers: the calmest attempt."""

    def attempt() -> tuple[Times, Ratios]:
        times = in_turn(calls, rounds=rounds, seconds=math.inf, clock=seconds_of_thread)[0]
        return times, {peer: {name: ratios(times[name], times[peer]) for name in times} for peer in peers}

    return calmest(attempt, lambda found: max(widest(each) for each in found[1].values()))


def cell(ratio: Spread, digits: int = 2) -> str:
    """The median of the paired ratios, with its quartiles, or the words for none."""
    if not ratio.calm:
        return TOO_BUSY
    return f"{ratio.median:.{digits}f} ({ratio.lower:.{digits}f} to {ratio.upper:.{digits}f})"


def measure(*, rounds: int) -> list[dict[str, Any]]:
    """A row for each layer, input and phase: what may be published, and why the rest may not."""
    rows: list[dict[str, Any]] = []
    for phase in PHASES:
        for shape in SHAPES:
            for layout in LAYOUTS:
                conditions = Conditions()
                times, over = measured(calls(shape, layout, phase), [PEER], rounds=rounds)
                about = {"phase": phase, "shape": list(shape), "layout": layout}
                after = conditions.after()
                for name, ratio in over[PEER].items():
                    seconds = asdict(spread(times[name]))
                    rows.append({**about, "layer": name, "seconds": seconds, "ratio": asdict(ratio), **after})
                    print(phase, shape, layout, name, ratio.said, file=sys.stderr, flush=True)
    return rows


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page, of what was measured."""
    columns = list(dict.fromkeys((tuple(row["shape"]), row["layout"]) for row in rows))
    heads = [f"({', '.join(map(str, shape))}), channels {layout}" for shape, layout in columns]
    tables = []
    for phase in PHASES:
        found = {(row["layer"], tuple(row["shape"]), row["layout"]): row for row in rows if row["phase"] == phase}
        lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
        lines += [
            f"| {name} | {' | '.join(cell(Spread(**found[name, *at]['ratio'])) for at in columns)} |"
            for name in dict.fromkeys(layer for layer, *_ in found if layer != PEER)
        ]
        own = (1e3 * found[PEER, *at]["seconds"]["median"] for at in columns)
        lines.append(f"| {PEER} itself | {' | '.join(f'{each:.2f} ms' for each in own)} |")
        tables.append(f"## {phase.capitalize()}\n\n" + "\n".join(lines) + "\n")
    about = rows[0]["machine"]
    pairs = rows[0]["ratio"]["pairs"]
    loads = [row["machine"]["load before"] for row in rows]
    return f"""# What each layer costs

Times as multiples of `{PEER}`'s on the same input: medians of {pairs} pairs and their quartiles. Below
1 is faster than PyTorch. Training is forward and backward; inference is without gradients. float32, the time that one
thread is on the processor, memory kept between calls for everyone. Where the quartiles are further apart than a factor
of {WIDEST} in {ATTEMPTS} attempts, no number is published. {about["processor"]}, PyTorch {about["torch"]}, kernels for
{about["kernels"]}, a load of {min(loads)} to {max(loads)} on {about["processors"]} processors by this and other work.
`make bench ARGS="--part family"` writes this page, and [the numbers](../benchmarks/results/family.json) are kept.

{chr(10).join(tables)}
## Where it goes

- Batch renormalization normalizes once for the moments and once with the correction that follows from them.
- Consecutive virtual batches, unless they are small, are normalized one by one, and the outputs are copied together.
  Interleaved ones are normalized at once, without a copy, where the channels come first; where they come last, each is
  copied out and its output copied back.
- The kernels read a mask for every value; PyTorch has no such layer.
- In inference batch renormalization, virtual batches and domains are batch norm.

Read next: [speed](speed.md), [all layers](layers/index.md), [GPUs](speed_on_gpus.md).
"""


def whitening_rows() -> list[str]:
    """The rows of the table in ``DecorrelatedBatchNorm1d``: training, then inference, against torch's and ours."""
    rows = []
    for shape in (*SHAPES, FEATURES):
        for size in GROUPS:
            found: dict[str, list[str]] = {"ZCA": [], "iterative": []}
            for phase in PHASES:
                training = phase == "training"
                x, dy = torch.randn(shape), torch.randn(shape)
                made = timed_calls(whitening_layers(shape, size, training=training), x, dy, training=training)
                over = measured(made, ["torch", "ours"], rounds=ROUNDS)[1]
                for name, cells in found.items():
                    cells += [cell(over[peer][name], digits=1) for peer in over]
            rows += [f"| {shape} | {size} | {name} | {' | '.join(cells)} |" for name, cells in found.items()]
            print(*rows[-2:], sep="\n", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parts.parser(__doc__)
    parser.add_argument("--whitening", action="store_true", help="only print the table of the whitening layers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    treat("reused")
    if options.whitening:
        whitening_rows()
        return
    rows = measure(rounds=QUICK_ROUNDS if options.quick else ROUNDS)
    if options.quick:
        return
    keep(options.out / "family.json", rows, by=("layer", "shape", "layout", "phase"))
    if options.out.resolve() == RESULTS.resolve():
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
