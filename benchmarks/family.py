"""The cost of each layer of the family against PyTorch's batch norm: ``python -m benchmarks.family``.

Two shapes of ResNet-50 in both layouts, one thread, float32, everyone in turn, memory kept between calls for everyone.
The time is the thread's own on the processor, so that the turns of other processes are not in it.
Writes docs/speed_of_the_family.md; with ``whitening`` behind it, prints the table of the whitening layers instead.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.memory import treat
from benchmarks.report import machine
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

Layer = Callable[[Tensor], Tensor]


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


def processor_seconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of the processor per call, in turn."""
    return in_turn(calls, rounds=ROUNDS, seconds=math.inf, clock=seconds_of_thread)[0]


def ratio(ours: list[float], theirs: list[float], digits: int = 2) -> str:
    """The median of the paired ratios, with its quartiles."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def page() -> str:
    """Measures, and writes what was measured."""
    about = machine()
    heads = [f"({', '.join(map(str, shape))}), channels {layout}" for shape in SHAPES for layout in LAYOUTS]
    tables = []
    for phase in PHASES:
        columns: list[dict[str, str]] = []
        for shape in SHAPES:
            for layout in LAYOUTS:
                times = processor_seconds(calls(shape, layout, phase))
                peer = times[PEER]
                columns.append({name: ratio(found, peer) for name, found in times.items() if name != PEER})
                columns[-1][PEER] = f"{1e3 * statistics.median(peer):.2f} ms"
                print(phase, shape, layout, columns[-1], file=sys.stderr, flush=True)
        rows = [f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0] if name != PEER]
        peer_row = f"| {PEER} itself | {' | '.join(column[PEER] for column in columns)} |"
        head = f"| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}"
        tables.append(f"## {phase.capitalize()}\n\n" + "\n".join([head, *rows, peer_row]) + "\n")
    return f"""# What each layer costs

Times as multiples of `{PEER}`'s on the same input: medians of {ROUNDS} pairs and their quartiles. Below
1 is faster than PyTorch. Training is forward and backward; inference is without gradients. float32, the time that one
thread is on the processor, memory kept between calls for everyone, {about["processor"]}, PyTorch {about["torch"]},
kernels for {about["kernels"]}, a load of {about["load before"]} on {about["processors"]} processors by other work.
`python -m benchmarks.family` writes this page.

{chr(10).join(tables)}
## Where it goes

- Batch renormalization normalizes once for the moments and once with the correction that follows from them.
- Consecutive virtual batches of some size are done one by one and copied together. Interleaved ones are done at once,
  without a copy, where the channels come first; where they come last, each is copied out and woven back in.
- A mask is looked at with every value; PyTorch has no such layer.
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
                times = processor_seconds(made)
                for name, cells in found.items():
                    cells += [ratio(times[name], times[peer], digits=1) for peer in ("torch", "ours")]
            rows += [f"| {shape} | {size} | {name} | {' | '.join(cells)} |" for name, cells in found.items()]
            print(*rows[-2:], sep="\n", flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    treat("reused")
    if sys.argv[1:] == ["whitening"]:
        whitening_rows()
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
