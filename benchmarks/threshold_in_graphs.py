"""The number of values from which on the compiled kernels win in a graph of torch.compile: ``SMALL_IN_GRAPH``.

    make bench ARGS="--part threshold"

Batch norm and ReLU, forward and backward, under torch.compile: PyTorch's layers, and ours with all sizes given to the
compiled kernels, in turn. Writes ``benchmarks/results/threshold_in_graphs.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import nn

import normwise.torch as nt
from benchmarks import parts
from benchmarks.kept import Conditions, keep
from benchmarks.spread import Spread, calmest, ratios
from benchmarks.timing import in_turn
from normwise.kernels import choose

SHAPES = [
    (8, 16, 8, 8),
    (16, 16, 8, 8),
    (16, 32, 8, 8),
    (16, 32, 16, 8),
    (16, 64, 16, 8),
    (128, 128),
    (256, 128),
    (256, 512),
]
THEIRS, OURS = "torch.compile", "normwise's kernels in the graph"


def step(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor, threshold: int) -> Callable[[], object]:
    """Forward and backward, compiled for this threshold, which every call sets: a graph has it in its guards."""
    compiled = torch.compile(layer)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()

    def call() -> None:
        choose.SMALL_IN_GRAPH = threshold
        compiled(x).backward(dy)
        x.grad = None

    return call


def measure(shape: tuple[int, ...], dtype: torch.dtype, *, last: bool) -> Spread:
    """PyTorch's compiled time over that of the kernels."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    theirs, ours = (nn.BatchNorm2d, nt.BatchNorm2d) if x.dim() == 4 else (nn.BatchNorm1d, nt.BatchNorm1d)
    dy, torchs = torch.randn_like(x), nn.Sequential(theirs(shape[1]), nn.ReLU())
    calls = {THEIRS: step(torchs, x, dy, 0), OURS: step(ours(shape[1], activation="relu"), x, dy, 0)}

    def attempt() -> Spread:
        times, _ = in_turn(calls, rounds=21, seconds=1.0)
        return ratios(times[THEIRS], times[OURS])

    return calmest(attempt, lambda found: found.width)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parts.parser(__doc__).parse_args(arguments)
    conditions, usual, found = Conditions(), choose.SMALL_IN_GRAPH, []
    for shape in SHAPES[:1] if options.quick else SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for last in (False, True)[: len(shape) - 2 or 1]:
                torch.compiler.reset()
                ratio = measure(shape, dtype, last=last)
                where = f"{'x'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}"
                where += f", channels {'last' if last else 'first'}" if len(shape) > 2 else ""
                print(where, ratio.said, flush=True)
                found.append({"of": where, **({"ratio": asdict(ratio)} if ratio.calm else {"absent": ratio.said})})
    choose.SMALL_IN_GRAPH = usual
    if not options.quick:
        conditions_after = conditions.after()
        keep(options.out / "threshold_in_graphs.json", [{**row, **conditions_after} for row in found], by=("of",))


if __name__ == "__main__":
    main()
