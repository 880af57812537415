"""Freed memory stays with the process, because the system has to clear every page that it gives out again."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any

from normwise.errors import NormwiseError

# From malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
# Where glibc's own moving thresholds end in a process that frees large blocks, and its number of mappings.
_END_OF_THRESHOLD, _MAPPINGS = 32 << 20, 65536
_PROBE = 64 << 20

_holders: set[int] = set()


class Kept:
    """The result of ``keep``: the memory is kept until ``undo()``, or the end of a ``with`` block.

    Example:
        >>> with keep():
        ...     y = sum(range(10))  # the training
    """

    def __init__(self) -> None:
        _holders.add(id(self))

    def undo(self) -> None:
        """Give what is free back to the system, now and from now on; where others keep it, when the last one ends.

        Example:
            >>> kept = keep()
            >>> kept.undo()
        """
        if id(self) not in _holders:
            return
        _holders.discard(id(self))
        if not _holders:
            _give_back(ctypes.CDLL(None))

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.undo()


def keep() -> Kept:
    """Have this process keep the memory that it frees: a training step on a CPU then waits for no fresh pages.

    glibc maps every tensor of 32 MB or more by itself and gives it back when it is freed. The system clears each page
    of the next one, which takes as long as the arithmetic of a layer. From now on a block that was freed serves the
    next tensor, whatever framework asks for it. The process then holds as much memory as it needed at its peak, and
    somewhat more where blocks of changing sizes do not fit into each other; results do not change.

    Returns:
        what undoes it, by ``undo()`` or as a context manager. After it, glibc's thresholds stand where they end in
        every process that frees large blocks, and move no more.

    Raises:
        NormwiseError: the process's allocator is not glibc's, as on macOS, or with jemalloc, which keep memory by
            themselves.

    References:
        mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.

    Example:
        >>> import torch, normwise.process_memory
        >>> kept = normwise.process_memory.keep()
        >>> x = torch.ones(32, 64, 56, 56) + 1  # and every later tensor of this size is where this one was
        >>> kept.undo()
    """
    libc: Any = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        raise NormwiseError(_NOT_GLIBC)
    if not _holders:
        if not (libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1)):
            raise NormwiseError(_NOT_GLIBC)
        if not _serves_from_the_heap(libc):
            _give_back(libc)
            raise NormwiseError(_NOT_GLIBC)
    return Kept()


_NOT_GLIBC = (
    "this process's memory is not glibc's malloc, so it cannot be told to keep what is freed: leave the call out; "
    "jemalloc, tcmalloc and other systems' allocators keep freed memory by themselves."
)


def _give_back(libc: Any) -> None:
    libc.mallopt(_M_MMAP_MAX, _MAPPINGS)
    libc.mallopt(_M_MMAP_THRESHOLD, _END_OF_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, 2 * _END_OF_THRESHOLD)
    libc.malloc_trim(0)


def _serves_from_the_heap(libc: Any) -> bool:
    """True if malloc obeys: another one, loaded in front of glibc's, has a mallopt behind it that does nothing."""
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    block = libc.malloc(_PROBE)
    try:
        return bool(block) and block + _PROBE <= libc.sbrk(0)
    finally:
        libc.free(block)
