"""The memory that outputs come from, alike for both: page faults of fresh blocks cost as much as the arithmetic."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from normwise.kernels import cpu

TREATMENTS = {
    "fresh": (
        "both sides ask the framework's allocator on glibc's own settings: normwise's pool is off, and a block above "
        "glibc's moving threshold (at most 32 MB) is mapped again for every output, page by page; smaller ones come "
        "from a heap that may still hold them. A plain copy goes into a new tensor"
    ),
    "default": (
        "both sides as they are without any switch: normwise's pool is on, glibc is on its own settings. The two are "
        "NOT treated alike; it is what a user sees. A plain copy goes into a new tensor"
    ),
    "reused": (
        "both sides write into memory that is mapped already: normwise's pool is on; for everyone glibc never maps a "
        "block by itself (M_MMAP_MAX = 0) and gives nothing back (M_TRIM_THRESHOLD = -1), so that a "
        "released block serves the next output. A plain copy goes into a tensor that exists"
    ),
}
"""The treatments, in the order in which one process can apply them: glibc's own settings do not come back."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h


@dataclass
class _Process:
    """The changes that were made to this process."""

    pool_limit: int | None = None  # what the user has it at
    heap_keeps: bool = False


_process = _Process()


class NoTreatment(RuntimeError):
    """This memory treatment cannot be had here; the text says why."""


def treat(name: str) -> None:
    """Applies a treatment to this process.

    Raises:
        NoTreatment: the allocator has no such setting, or was changed for good by an earlier treatment.
    """
    if name == "reused":
        _keep_everything()
        _process.heap_keeps = True
    elif _process.heap_keeps:
        raise NoTreatment(f"memory '{name}' has to be measured before 'reused', whose settings cannot be undone")
    _set_pool(on=name != "fresh")


def _keep_everything() -> None:
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        raise NoTreatment("this system's allocator has no mallopt, so PyTorch's outputs cannot be kept mapped")
    if not (mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1)):
        raise NoTreatment("the allocator refused M_MMAP_MAX or M_TRIM_THRESHOLD")


def _set_pool(*, on: bool) -> None:
    if cpu.library is None:
        return
    if _process.pool_limit is None:
        _process.pool_limit = cpu.pool()["limit"]
    cpu.library.set_pool_limit(_process.pool_limit if on else 0)
