"""The constants that are compiled into a kernel: how a tile lies, and what follows normalization.

A kernel takes each of them as one constant, and so do the functions that it calls. Nothing here needs Triton.
"""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """The layout of a program's tile in the tensor."""

    vector: int  # values that a thread may load at once; the width of a row is passed in vectors
    down: int  # rows
    across: int  # columns
    last: bool  # whether the channels come last in memory
    masked: bool  # whether a mask says which values count
    each: bool = False  # whether each channel has a mask of its own, laid as the tensor is

    @property
    def elements(self) -> int:
        """Values in a tile."""
        return self.down * self.across


class Line(NamedTuple):
    """The operations on a normalized value: activation, residual, bits for the slope, scale and shift."""

    activation: int  # a number of ``activations.py``
    residual: bool  # added in front of it; in the backward, whether it was kept
    bits: bool  # whether one bit per element tells the slope
    scaled: bool
    shifted: bool
