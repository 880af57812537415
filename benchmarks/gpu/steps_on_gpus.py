"""ResNet-50's training step on a GPU: before and after one ``fuse(model)``, with and without ``torch.compile``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import normwise
from benchmarks.networks import IMAGE, resnet
from benchmarks.spread import Spread, calmest, ratios, spread, widest
from benchmarks.timing import Clock, in_turn
from normwise.kernels import choose

BATCH = 256
ROUNDS = 9
SECONDS = 30.0  # after which a setting begins no new round
SETTINGS = (("float32", False), ("bfloat16", True))
PYTORCH = "PyTorch"
# Of a model: whether it is fused, and the kernel that is asked for, none for PyTorch's own operator.
WAYS = {PYTORCH: (False, None), "fused": (True, None), "fused, triton": (True, "triton")}


def step(model: nn.Module, images: Tensor, labels: Tensor, dtype: str) -> Callable[[], object]:
    """Forward, backward and plain SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> object:
        optimizer.zero_grad()
        kind = images.device.type
        with torch.autocast(kind, torch.bfloat16) if dtype == "bfloat16" else nullcontext():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def measure(
    clock: Clock,
    *,
    device: str = "cuda",
    batch: int = BATCH,
    image: tuple[int, ...] = IMAGE,
    compile: tuple[bool, ...] = (False, True),
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """A row for each setting and each way: milliseconds, and the peak memory of a step in MB.

    The ways of a setting are timed in turn, and each is compared with PyTorch's own in the same round.
    """
    rows = []
    for dtype, last in SETTINGS:
        for compiled in compile:
            order, how = "last" if last else "first", ", compiled" if compiled else ""
            found = _rows(clock, device, batch, image, dtype, last, compiled, rounds)
            rows += [{"step": f"{dtype}, channels {order}, {name}{how}", **row} for name, row in found.items()]
    return rows


def _rows(
    clock: Clock,
    device: str,
    batch: int,
    image: tuple[int, ...],
    dtype: str,
    last: bool,
    compiled: bool,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    torch._dynamo.reset()
    form: Any = torch.channels_last if last else torch.contiguous_format
    images = torch.randn(batch, *image, device=device).contiguous(memory_format=form)
    labels = torch.randint(0, 1000, (batch,), device=device)
    calls: dict[str, Callable[[], object]] = {}
    peaks: dict[str, float] = {}
    for name, (fused, kernel) in WAYS.items():
        torch.manual_seed(0)
        model: nn.Module = cast(Any, resnet().to(device)).to(memory_format=form).train()
        if fused:
            normwise.fuse(model)
        if compiled:
            model = cast(nn.Module, torch.compile(copy.deepcopy(model)))
        call = _asking(kernel, step(model, images, labels, dtype))
        try:
            call()
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            call()
        except torch.OutOfMemoryError:
            continue
        calls[name], peaks[name] = call, torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0

    def attempt() -> tuple[dict[str, list[float]], dict[str, Spread]]:
        times, _ = in_turn(calls, rounds=rounds, seconds=SECONDS, clock=clock)
        others = times.keys() - {PYTORCH} if PYTORCH in times else ()
        return times, {name: ratios(times[PYTORCH], times[name]) for name in others}

    times, over = calmest(attempt, lambda found: widest(found[1]))
    return {
        name: _row([1e3 * seconds for seconds in times[name]], over.get(name), peaks[name])
        if name in calls
        else {"refused": "the GPU has no room for it"}
        for name in WAYS
    }


def _row(milliseconds: list[float], ratio: Spread | None, peak: float) -> dict[str, Any]:
    taken = spread(milliseconds)
    words = None if ratio is None else ratio.said
    return {"milliseconds": taken.median, "spread": str(taken), "peak": peak, "ratio": words}


def _asking(kernel: str | None, call: Callable[[], object]) -> Callable[[], object]:
    """The call with a kernel asked for: the environment is read once, and this is one process."""

    def run() -> object:
        with patch.object(choose, "_ASKED", kernel):
            return call()

    return run


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "refused" in row:
        return f"{row['step']:<62} {row['refused']}"
    ratio = f", {row['ratio']} times as fast as PyTorch" if row["ratio"] else ""
    return f"{row['step']:<62} {row['spread']} ms, at most {row['peak']:.0f} MB{ratio}"
