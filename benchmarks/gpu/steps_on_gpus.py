"""ResNet-50's training step on a GPU: before and after one ``fuse(model)``, with and without ``torch.compile``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import normwise
from benchmarks.networks import IMAGE, resnet
from benchmarks.spread import spread
from normwise.kernels import choose

BATCH = 256
ROUNDS = 9
SETTINGS = (("float32", False), ("bfloat16", True))
# Of a model: whether it is fused, and the kernel that is asked for, none for PyTorch's own operator.
WAYS = {"PyTorch": (False, None), "fused": (True, None), "fused, triton": (True, "triton")}


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
    clock: Callable[[Callable[[], object]], float],
    *,
    device: str = "cuda",
    batch: int = BATCH,
    image: tuple[int, ...] = IMAGE,
    compile: tuple[bool, ...] = (False, True),
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """A row for each setting and each way: milliseconds, and the peak memory of a step in MB."""
    rows = []
    for dtype, last in SETTINGS:
        for compiled in compile:
            for name, (fused, kernel) in WAYS.items():
                order, how = "last" if last else "first", ", compiled" if compiled else ""
                row = _row(clock, device, batch, image, dtype, last, compiled, fused, kernel, rounds)
                rows.append({"step": f"{dtype}, channels {order}, {name}{how}", **row})
    return rows


def _row(
    clock: Callable[[Callable[[], object]], float],
    device: str,
    batch: int,
    image: tuple[int, ...],
    dtype: str,
    last: bool,
    compiled: bool,
    fused: bool,
    kernel: str | None,
    rounds: int,
) -> dict[str, Any]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    form: Any = torch.channels_last if last else torch.contiguous_format
    images = torch.randn(batch, *image, device=device).contiguous(memory_format=form)
    model: nn.Module = cast(Any, resnet().to(device)).to(memory_format=form).train()
    if fused:
        normwise.fuse(model)
    labels = torch.randint(0, 1000, (batch,), device=device)
    asked, choose._ASKED = choose._ASKED, kernel  # the environment is read once, and this is one process
    try:
        call = step(cast(nn.Module, torch.compile(copy.deepcopy(model))) if compiled else model, images, labels, dtype)
        for _ in range(2):
            call()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = spread([clock(call) for _ in range(rounds)])
        peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0
    except torch.OutOfMemoryError:
        return {"refused": "the GPU has no room for it"}
    finally:
        choose._ASKED = asked
    return {"milliseconds": taken.median, "spread": str(taken), "peak": peak}


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "refused" in row:
        return f"{row['step']:<62} {row['refused']}"
    return f"{row['step']:<62} {row['spread']} ms, at most {row['peak']:.0f} MB"
