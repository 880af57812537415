"""The least bytes that a computation has to move, and how fast a plain copy moves them: the limit."""

from __future__ import annotations

from benchmarks.cases import DTYPES, Case

# Reads and writes of one activation tensor, if every value of a channel stays on chip between the passes.
_TENSORS = {"forward": 2, "inference": 2, "forward+backward": 5}
_WITH_RESIDUAL = {"forward": 3, "inference": 3, "forward+backward": 7}
# Reads and writes of the mask that the backward needs where there is a residual: one bit per element.
_MASKS = {"forward": 1, "inference": 0, "forward+backward": 2}


def least_bytes(case: Case) -> float:
    """The bytes to read and write, by the scheme that reads x once in the forward, and x and dy in the backward."""
    if not case.adds:
        return float(_TENSORS[case.phase] * case.bytes)
    bits: int = DTYPES[case.dtype].itemsize * 8
    return (_WITH_RESIDUAL[case.phase] + _MASKS[case.phase] / bits) * case.bytes


def bandwidth(case: Case, milliseconds: float) -> float:
    """GB/s, if nothing but the least was moved."""
    return least_bytes(case) / milliseconds / 1e6


def copy_bandwidth(case: Case, milliseconds: float) -> float:
    """GB/s of a copy: one read, one write."""
    return 2 * case.bytes / milliseconds / 1e6
