"""The amount of memory that all batches together may hold."""

from __future__ import annotations

import math
import os
from pathlib import Path

from normwise.errors import NormwiseError

SHARE = 0.25
"""The share of the free memory that is used if the caller says nothing."""


def check_memory(memory: float | None, *, called: str) -> None:
    """Refuse what is neither bytes nor a share.

    Args:
        memory: bytes; up to 1, a share of the free memory; None for ``SHARE`` of it; 0 for none at all.
        called: the operation, for the error.

    Raises:
        NormwiseError: it is negative, or no number.
    """
    number = isinstance(memory, int | float) and not isinstance(memory, bool)
    if memory is not None and not (number and memory >= 0):
        raise NormwiseError(
            f"{called} needs as memory a number of bytes, or a share of the free memory between 0 and 1, received "
            f"{memory!r}: pass for example 2e9 or 0.5, 0 to go layer by layer, or leave it out."
        )


def bytes_for(memory: float | None, free: float) -> float:
    """The bytes that a caller's ``memory`` comes to.

    Args:
        memory: as in ``check_memory``.
        free: how many bytes are free.

    Example:
        >>> bytes_for(None, 1000), bytes_for(0.5, 1000), bytes_for(300, 1000)
        (250.0, 500.0, 300)
    """
    share = SHARE if memory is None else memory
    return share if share > 1 else share * free


def free_memory() -> float:
    """The bytes that this process may still take in the host's memory; infinite where the system does not say."""
    found = [*_of_the_machine(), *_of_the_group()]
    return min(found, default=math.inf)


def in_words(number: float) -> str:
    """A number of bytes for a person.

    Example:
        >>> in_words(3.21e9), in_words(4e5)
        ('3.2 GB', '0.4 MB')
    """
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _of_the_machine() -> list[float]:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            return [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    try:  # no Linux: half of all there is
        return [0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):
        return []


def _of_the_group() -> list[float]:
    """The bytes that the control group of a container has left; version 2, then 1."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        folder = Path("/sys/fs/cgroup")
        try:
            most, now = (int((folder / name).read_text(encoding="ascii")) for name in (limit, used))
        except (OSError, ValueError):  # "max" is no limit
            continue
        return [max(0.0, float(most - now))]
    return []
