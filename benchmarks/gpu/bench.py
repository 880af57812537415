"""Measurements where there is a GPU, in one run of under ten minutes: layers, whole steps, memory, and a copy.

Every call is first compared with the float64 formulas by plain PyTorch operations; what does not agree is not timed.
The layers that ResNet-50 has most of come first, and the file is written after each row: a run that ends early has
what it measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu import steps_on_gpus
from benchmarks.gpu.launches import FORMATS
from benchmarks.gpu.summary import COMPILED, COPY, EAGER, MOST, NATIVE, OURS, summary
from benchmarks.shapes import RESNET50_LAYERS
from benchmarks.spread import Spread, calmest, published, ratios, spread, widest
from benchmarks.timing import Clock, in_turn
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch.steps.triton_operators import TritonGpu

LAYERS_TAKE, STEPS_TAKE = 5.0, 3.0  # minutes, after which no new row begins; one takes a minute at most
BATCH = 256
ROUNDS = 15
SECONDS = 5.0  # after which a row begins no new round
WITHIN = {"float32": 2e-5, "bfloat16": 2e-2}  # of the largest gradient


class Case(NamedTuple):
    """A layer, followed by a ReLU, perhaps after an addition."""

    size: tuple[int, ...]
    dtype: str
    last: bool
    adds: bool
    layers: int = 1  # of ResNet-50 that it stands for

    @property
    def setting(self) -> str:
        """The name of the row of the targets to which it belongs."""
        order = "last" if self.last else "first"
        return f"{self.dtype}, channels {order}, {'add, relu' if self.adds else 'relu'}"

    @property
    def name(self) -> str:
        """The name of the case in a table."""
        return f"{self.size[1]}@{self.size[-1]}, {self.setting}"


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
    """ResNet-50's layers, in the two settings of the targets, those that it has most of first."""
    found = [
        Case((batch, *shape.size[1:]), dtype, last, adds, shape.adding if adds else shape.count)
        for shape in RESNET50_LAYERS
        for adds in ((False, True) if shape.adding else (False,))
        for dtype, last in (("float32", False), ("bfloat16", True))
    ]
    return sorted(found, key=lambda case: -case.layers)


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


def native(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None = None) -> Tensor:
    """The same by PyTorch's own code, without cuDNN; the backward is of the same kind as the forward was."""
    with torch.backends.cudnn.flags(enabled=False):
        return plain(x, scale, shift, residual)


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
    row: dict[str, Any] = {"case": case.name, "setting": case.setting, "count": case.layers}
    far = disagreement(given)
    if not far <= WITHIN[case.dtype]:
        return {**row, "refused": f"{far:.2g} from float64"}
    calls: dict[str, Callable[[], object]] = {
        COPY: lambda: torch.empty_like(given.x).copy_(given.x.detach()),
        EAGER: step_of(plain, given),
        NATIVE: step_of(native, given),
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
    calm, row["absent"] = published(over)
    row["bytes"] = given.x.numel() * given.x.element_size()
    row["milliseconds"] = {name: 1e3 * spread(found).median for name, found in times.items()}
    row["ratios"] = {name: asdict(ratio) for name, ratio in calm.items()}
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


def run(
    folder: Path,
    *,
    device: str = "cuda",
    clock: Clock = by_events,
    asked: Sequence[Case] | None = None,
    steps: steps_on_gpus.Asked | None = None,
    compile: bool = True,
    minutes: tuple[float, float] = (LAYERS_TAKE, STEPS_TAKE),
    rounds: int = ROUNDS,
) -> Path:
    """Measure everything, print a short table last, and keep the results file after each row.

    Args:
        folder: of the results.
        device: to measure on.
        clock: what takes the times.
        asked: the layers, the most important first; None for ResNet-50's.
        steps: the training steps; None for ResNet-50's.
        compile: whether to time ``torch.compile`` too.
        minutes: for the layers and for the steps.
        rounds: of a layer, at most.

    Returns:
        The results file.
    """
    found = {**_about(device), "rounds": rounds}
    name = found["device"].lower().replace(" ", "-")
    path = folder / f"{found['date'][:10]}-{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    asked = cases() if asked is None else asked
    for row in _layers(asked, device, clock, time.monotonic() + 60 * minutes[0], rounds, compile=compile):
        found["left out" if "left out" in row else "layers"].append(row.get("left out", row))
        keep(path, found)
        if "left out" not in row:
            print(line(row), flush=True)
    steps = steps or steps_on_gpus.Asked(compile=(False, True) if compile else (False,))
    for row in steps_on_gpus.measure(clock, steps, device=device, until=time.monotonic() + 60 * minutes[1]):
        found["left out" if "left out" in row else "steps"].append(row.get("left out", row))
        keep(path, found)
        if "left out" not in row:
            print(steps_on_gpus.line(row), flush=True)
    print("\n" + "\n".join(summary(found)))
    return path


def _about(device: str) -> dict[str, Any]:
    """The head of a results file."""
    head: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        head |= {"device": properties.name, "processors": properties.multi_processor_count}
    return {**head, "torch": torch.__version__, "layers": [], "steps": [], "left out": []}


def _layers(
    asked: Sequence[Case], device: str, clock: Clock, until: float, rounds: int, *, compile: bool
) -> Iterator[dict[str, Any]]:
    """A row for each layer, or the name of one that was left out; an error is in its row, and the next one follows."""
    for case in asked:
        if time.monotonic() > until:
            yield {"left out": case.name}
            continue
        about = {"case": case.name, "setting": case.setting, "count": case.layers}
        try:
            row = measure(case, device, clock, compile=compile, rounds=rounds)
        except torch.OutOfMemoryError:
            row = {**about, "refused": steps_on_gpus.NO_ROOM}
        except RuntimeError as error:
            row = {**about, "refused": str(error).partition("\n")[0]}
        steps_on_gpus.free(device)
        yield row


def keep(path: Path, found: dict[str, Any]) -> None:
    """Write the file whole, or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    beside.replace(path)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "refused" in row:
        return f"{row['case']:<52} REFUSED: {row['refused']}"
    said = ", ".join(f"{name} {each['median']:.2f}" for name, each in row["ratios"].items())
    return f"{row['case']:<52} {row['milliseconds'][OURS]:8.3f} ms, {row['of the floor']:.0%} of the floor; {said}"
