"""Streams and captured graphs, and what stands for them where there is no GPU: a graph there calls its step again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tests.kernels.triton_gpu.device import DEVICE

Step = Callable[[], Sequence[Tensor]]


def stream() -> Any:
    """A stream of its own that begins behind what was launched; None where there are no streams."""
    if DEVICE != "cuda":
        return None
    found = torch.cuda.Stream()
    found.wait_stream(torch.cuda.current_stream())
    return found


def on(found: Any) -> AbstractContextManager[Any]:
    """Launch on a stream."""
    return nullcontext() if found is None else torch.cuda.stream(found)


def finish() -> None:
    """Wait for all that was launched on any stream."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def captured(step: Step) -> tuple[Sequence[Tensor], Callable[[], None]]:
    """The tensors into which each replay of a step writes, and a function that replays it."""
    if DEVICE != "cuda":
        outputs = [tensor.clone() for tensor in step()]

        def again() -> None:
            for output, tensor in zip(outputs, step(), strict=True):
                output.copy_(tensor)

        return outputs, again
    side = stream()
    with on(side):
        for _ in range(3):  # compiles, and allocates what stays
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    return found, graph.replay
