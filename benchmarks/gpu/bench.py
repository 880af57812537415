"""Measurements where there is a GPU, in one run of under ten minutes: layers, whole steps, memory, and a copy.

Every call is first compared with the float64 formulas by plain PyTorch operations; what does not agree is not timed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu import steps_on_gpus
from benchmarks.gpu.launches import FORMATS
from benchmarks.shapes import RESNET50_LAYERS
from benchmarks.spread import Spread, calmest, ratios, spread, widest
from benchmarks.timing import Clock, in_turn
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch.steps.triton_operators import TritonGpu

MINUTES = 9.0
BATCH = 256
ROUNDS = 15
SECONDS = 10.0  # after which a row begins no new round
WITHIN = {"float32": 2e-5, "bfloat16": 2e-2}  # of the largest gradient
COPY, EAGER, COMPILED, MOST, OURS = "copy", "eager", "compiled", "compiled, max-autotune", "triton"


class Case(NamedTuple):
    """A layer, followed by a ReLU, perhaps after an addition."""

    size: tuple[int, ...]
    dtype: str
    last: bool
    adds: bool

    @property
    def name(self) -> str:
        """The name of the case in a table."""
        order = "last" if self.last else "first"
        return f"{self.size[1]}@{self.size[-1]}, {self.dtype}, channels {order}, {'add, relu' if self.adds else 'relu'}"


class Inputs(NamedTuple):
    """The tensors of a case."""

    x: Tensor
    scale: Tensor
    shift: Tensor
    residual: Tensor | None
    dy: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors that have a gradient."""
        return tuple(tensor for tensor in self[:4] if tensor is not None)


def cases(batch: int = BATCH) -> list[Case]:
    """ResNet-50's layers, in the two settings of the targets."""
    return [
        Case((batch, *shape.size[1:]), dtype, last, adds)
        for dtype, last in (("float32", False), ("bfloat16", True))
        for shape in RESNET50_LAYERS
        for adds in ((False, True) if shape.name in ("256@56", "512@28", "1024@14", "2048@7") else (False,))
    ]


def inputs(case: Case, device: str) -> Inputs:
    """Random ones, on a device."""
    draw = torch.Generator(device).manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def normal() -> Tensor:
        x = torch.randn(case.size, generator=draw, device=device).to(dtype)
        return x.contiguous(memory_format=FORMATS[len(case.size)]) if case.last else x

    scale, shift = (torch.rand(case.size[1], generator=draw, device=device) + 0.5 for _ in range(2))
    return Inputs(
        normal().requires_grad_(),
        scale.requires_grad_(),
        shift.requires_grad_(),
        normal().requires_grad_() if case.adds else None,
        normal(),
    )


def plain(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None) -> Tensor:
    """PyTorch's operators one after the other, as everybody writes them."""
    y = F.batch_norm(x, None, None, scale, shift, training=True)
    y = y if residual is None else y.add_(residual)
    return y.relu_()


def ours(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None) -> Tensor:
    """The Triton kernels."""
    return TritonGpu().forward_batch(Call(x, None, None, None, scale, shift, 1e-5, "relu", residual))[0]


def step_of(function: Callable[..., Tensor], given: Inputs) -> Callable[[], tuple[Tensor, ...]]:
    """A forward and backward."""

    def step() -> tuple[Tensor, ...]:
        y = function(*given[:4])
        return (y.detach(), *torch.autograd.grad(y, given.leaves, given.dy))

    return step


def disagreement(given: Inputs) -> float:
    """The largest distance of the output and of every gradient from float64, in its largest value."""

    def widened(tensor: Tensor) -> Tensor:
        return tensor.detach().double().requires_grad_()

    residual = None if given.residual is None else widened(given.residual)
    wide = Inputs(widened(given.x), widened(given.scale), widened(given.shift), residual, widened(given.dy))
    y, _ = TWO_PASS.forward_batch(Call(wide.x, None, None, None, wide.scale, wide.shift, 1e-5, "relu", wide.residual))
    right = (y.detach(), *torch.autograd.grad(y, wide.leaves, wide.dy.detach()))
    found = step_of(ours, given)()
    # Where rounding decides on which side of ReLU's kink a value falls, its gradients are anybody's: few of them.
    far = [
        float(
            ((one - other).abs().flatten().double().kthvalue(max(int(one.numel() * 0.999), 1)).values)
            / other.abs().max()
        )
        for one, other in zip(found, right, strict=True)
    ]
    return max(far)


def measure(case: Case, device: str, clock: Clock, *, compile: bool = True, rounds: int = ROUNDS) -> dict[str, Any]:
    """One row: milliseconds of a forward and backward by everyone, in turn, and of a copy of x."""
    given = inputs(case, device)
    far = disagreement(given)
    if not far <= WITHIN[case.dtype]:
        return {"case": case.name, "refused": f"{far:.2g} from float64"}
    calls: dict[str, Callable[[], object]] = {
        COPY: lambda: torch.empty_like(given.x).copy_(given.x.detach()),
        EAGER: step_of(plain, given),
        OURS: step_of(ours, given),
    }
    if compile:
        torch._dynamo.reset()
        calls[COMPILED] = step_of(torch.compile(plain, dynamic=False), given)
        most = torch.compile(plain, dynamic=False, mode="max-autotune-no-cudagraphs")
        calls[MOST] = step_of(most, given)

    def attempt() -> tuple[dict[str, list[float]], dict[str, Spread]]:
        times, _ = in_turn(calls, rounds=rounds, seconds=SECONDS, clock=clock)
        return times, {name: ratios(times[name], times[OURS]) for name in calls if name not in (OURS, COPY)}

    times, over = calmest(attempt, lambda found: widest(found[1]))
    row: dict[str, Any] = {
        "case": case.name,
        "milliseconds": {name: 1e3 * spread(found).median for name, found in times.items()},
    }
    row["ratios"] = {name: ratio.said for name, ratio in over.items()}
    moved = (3 + 4 if case.adds else 2 + 3) / 2  # of a copy, which reads and writes once
    row["of the floor"] = moved * row["milliseconds"][COPY] / row["milliseconds"][OURS]
    return row


def by_events(call: Callable[[], object], in_a_row: int) -> float:
    """The ``Clock`` of the GPU: seconds per call.

    A call goes before, so that the GPU is not idle when the first event is recorded, and does not wait for the host
    between the first event and the first kernel.
    """
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    begin.record()
    for _ in range(in_a_row):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / in_a_row / 1e3


def run(folder: Path) -> Path:
    """Measure everything, print a table last, and write the results file."""
    start = time.monotonic()
    properties = torch.cuda.get_device_properties(0)
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": properties.name,
        "processors": properties.multi_processor_count,
        "torch": torch.__version__,
        "rounds": ROUNDS,
        "layers": [],
        "left out": [],
    }
    found["steps"] = steps_on_gpus.measure(by_events)
    for case in cases():
        if time.monotonic() - start > MINUTES * 60:
            found["left out"].append(case.name)
            continue
        found["layers"].append(measure(case, "cuda", by_events))
        print(line(found["layers"][-1]), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['date'][:10]}-{properties.name.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print("\n" + "\n".join([*map(line, found["layers"]), *map(steps_on_gpus.line, found["steps"])]))
    if found["left out"]:
        print(f"The time was up: {len(found['left out'])} layers were left out.")
    return path


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "refused" in row:
        return f"{row['case']:<52} REFUSED: {row['refused']}"
    ratios = ", ".join(f"{name} {ratio}" for name, ratio in row["ratios"].items())
    return f"{row['case']:<52} {row['milliseconds'][OURS]:8.3f} ms, {row['of the floor']:.0%} of the floor; {ratios}"
