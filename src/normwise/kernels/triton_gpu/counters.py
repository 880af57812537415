"""The counters of programs that have come: 0 before every launch, and put back to 0 by the launch's last programs.

Launches of one stream follow each other, so they share counters. Those of two streams may run at once, and a captured
graph runs on any stream, so each stream and each captured launch has counters of its own.
"""

from __future__ import annotations

from threading import Lock, Thread

import torch
from torch import Tensor

from normwise.kernels.triton_gpu.plan import MOST_COUNTERS

_KEPT: dict[tuple[torch.device, int], Tensor] = {}
_LOCK = Lock()


def counters(x: Tensor) -> Tensor:
    """``MOST_COUNTERS`` zeros of 32 bits where x lies, for a launch on the current stream.

    Inside a capture they are new: the graph then sets them to 0 in each of its runs, and no other launch has them.
    """
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return _zeros(x.device)
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    found = _KEPT.get((x.device, stream))
    if found is None:
        with _LOCK:
            found = _KEPT.setdefault((x.device, stream), _apart(x.device))
    return found


def _zeros(device: torch.device) -> Tensor:
    return torch.zeros(MOST_COUNTERS, dtype=torch.int32, device=device)


def _apart(device: torch.device) -> Tensor:
    """Zeros from the process's own memory: ``torch.compile`` lets a call's thread allocate from a graph's pool.

    What stays there after the call it takes for a mistake. A thread of its own is in no pool, and it launches on the
    default stream, for which the current one then waits.
    """
    made: list[Tensor] = []

    def make() -> None:
        made.append(_zeros(device))
        if device.type == "cuda":
            torch.cuda.default_stream(device).synchronize()

    thread = Thread(target=make)
    thread.start()
    thread.join()
    return made[0]
