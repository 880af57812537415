"""ResNet-50's training step on a GPU: before and after one ``fuse(model)``, with and without ``torch.compile``."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import normwise
from benchmarks.networks import IMAGE, resnet
from benchmarks.spread import Spread, calmest, ratios, spread, widest
from benchmarks.timing import Clock, in_turn
from normwise.kernels import choose

SECONDS = 15.0  # after which a setting begins no new round
SETTINGS = (("float32", False), ("bfloat16", True))
PYTORCH, TRITON = "PyTorch", "fused, triton"
# Of a model: whether it is fused, and the kernel that is asked for, none for PyTorch's own operator.
WAYS = {PYTORCH: (False, None), TRITON: (True, "triton"), "fused": (True, None)}
NO_ROOM = "the GPU has no room for it"


class Asked(NamedTuple):
    """A network and its batches: by default ResNet-50, as the targets have it."""

    network: Callable[[], nn.Module] = resnet
    batch: int = 256
    image: tuple[int, ...] = IMAGE
    compile: tuple[bool, ...] = (False, True)
    rounds: int = 9


class Setting(NamedTuple):
    """One group of rows, which are timed in turn."""

    dtype: str
    last: bool
    compiled: bool

    def name(self, way: str) -> str:
        """The name of a row."""
        order, how = "last" if self.last else "first", ", compiled" if self.compiled else ""
        return f"{self.dtype}, channels {order}, {way}{how}"


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


def measure(clock: Clock, asked: Asked, *, device: str, until: float) -> Iterator[dict[str, Any]]:
    """A row for each setting and each way: milliseconds, and the peak memory of a step in MB.

    The ways of a setting are timed in turn, and each is compared with PyTorch's own in the same round. After ``until``
    no model is made any more; what is left out then is said by name.
    """
    for compiled in asked.compile:
        for dtype, last in SETTINGS:
            setting = Setting(dtype, last, compiled)
            for way, row in _rows(clock, asked, setting, device, until).items():
                yield row if "left out" in row else {"step": setting.name(way), **row}
            free(device)


def _rows(clock: Clock, asked: Asked, setting: Setting, device: str, until: float) -> dict[str, dict[str, Any]]:
    torch._dynamo.reset()
    form: Any = torch.channels_last if setting.last else torch.contiguous_format
    images = torch.randn(asked.batch, *asked.image, device=device).contiguous(memory_format=form)
    labels = torch.randint(0, 1000, (asked.batch,), device=device)
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], object]] = {}
    peaks: dict[str, float] = {}
    for name in WAYS:
        if time.monotonic() > until:
            rows[name] = {"left out": setting.name(name)}
            continue
        try:
            calls[name], peaks[name] = _tried(asked, setting, name, images, labels)
        except torch.OutOfMemoryError:
            rows[name] = {"refused": NO_ROOM}

    def attempt() -> tuple[dict[str, list[float]], dict[str, Spread]]:
        times, _ = in_turn(calls, rounds=asked.rounds, seconds=SECONDS, clock=clock)
        others = times.keys() - {PYTORCH} if PYTORCH in times else ()
        return times, {name: ratios(times[PYTORCH], times[name]) for name in others}

    try:
        times, over = calmest(attempt, lambda found: widest(found[1]))
    except torch.OutOfMemoryError:
        return {name: rows.get(name, {"refused": NO_ROOM}) for name in WAYS}
    return {name: rows.get(name) or _row(times[name], over.get(name), peaks[name]) for name in WAYS}


def _tried(
    asked: Asked, setting: Setting, name: str, images: Tensor, labels: Tensor
) -> tuple[Callable[[], object], float]:
    """A step of a new model, and its peak memory in MB beside the models that are there already and the batch."""
    fused, kernel = WAYS[name]
    device = images.device.type
    free(device)
    before = _allocated(device)
    torch.manual_seed(0)
    form: Any = torch.channels_last if setting.last else torch.contiguous_format
    model: nn.Module = cast(Any, asked.network().to(device)).to(memory_format=form).train()
    if fused:
        normwise.fuse(model)
    if setting.compiled:
        model = cast(nn.Module, torch.compile(copy.deepcopy(model)))
    call = _asking(kernel, step(model, images, labels, setting.dtype))
    call()
    return call, _peak(call, device) - before


def _allocated(device: str) -> float:
    """MB of tensors on the GPU."""
    return torch.cuda.memory_allocated() / 1e6 if device == "cuda" else 0.0


def _peak(call: Callable[[], object], device: str) -> float:
    """MB of tensors on the GPU at the most, in a call."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0


def free(device: str) -> None:
    """Give back what nobody holds any more: autograd's circles, and the allocator's blocks."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _row(seconds: list[float], ratio: Spread | None, peak: float) -> dict[str, Any]:
    taken = spread([1e3 * each for each in seconds])
    row = {"milliseconds": taken.median, "spread": str(taken), "peak": peak, "ratio": None}
    if ratio is not None:
        row |= {"ratio": asdict(ratio)} if ratio.calm else {"absent": ratio.said}
    return row


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
    ratio = f", {row['ratio']['median']:.2f} times as fast as PyTorch" if row["ratio"] else ""
    return f"{row['step']:<62} {row['spread']} ms, at most {row['peak']:.0f} MB{ratio}"


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each dtype: what one ``fuse(model)`` with the Triton kernels is worth, and the peak memory."""
    by_name = {row["step"]: row for row in rows if "refused" not in row}
    lines = []
    for dtype, last in SETTINGS:
        said = []
        for compiled in (False, True):
            setting = Setting(dtype, last, compiled)
            ours, theirs = (by_name.get(setting.name(way)) for way in (TRITON, PYTORCH))
            if ours and theirs and ours["ratio"]:
                against = "PyTorch compiled" if compiled else "PyTorch"
                memory = f"{ours['peak']:.0f} MB against {theirs['peak']:.0f}"
                said.append(f"{ours['ratio']['median']:.2f} times as fast as {against}, {memory}")
        lines.append(f"step, {dtype}: {'; '.join(said) or 'not measured'}")
    return lines
