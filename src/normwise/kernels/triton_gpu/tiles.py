"""Where a tile lies in memory, and how its values are summed: what all kernels share.

A tensor is a matrix. Where the channels come last in memory, a row holds one value of every channel, and a tile has
columns of several channels. Where they come first, a row holds one sample's values of one channel, and a tile has one
channel only. A value per channel is then a vector along the columns (LAST), or one number.
"""

# Triton reads the annotations and the source; nothing here is called by Python itself.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def along(values, LAST: tl.constexpr):
    """A value per channel, so that it fits a tile."""
    if LAST:
        found = values[None, :]
    else:
        found = values
    return found


@triton.jit
def summed(values, LAST: tl.constexpr):
    """The sum over a tile for each channel in it."""
    if LAST:
        found = tl.sum(values, axis=0)
    else:
        found = tl.sum(tl.sum(values, axis=1), axis=0)
    return found


@triton.jit
def place(
    tile,
    group,
    rows,
    channels,
    width,
    blocks,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    LAST: tl.constexpr,
):
    """A tile's row numbers and columns, the offsets of its values, and which of these exist."""
    if LAST:
        row = tile * DOWN + tl.arange(0, DOWN)
        column = group * ACROSS + tl.arange(0, ACROSS)
        start = row.to(tl.int64) * width
    else:
        row = tile // blocks * DOWN + tl.arange(0, DOWN)
        column = tile % blocks * ACROSS + tl.arange(0, ACROSS)
        start = (row.to(tl.int64) * channels + group) * width
    offset = start[:, None] + column[None, :]
    inside = (row < rows)[:, None] & (column < width)[None, :]
    return row, column, offset, inside


@triton.jit
def values_of(
    tile,
    group,
    rows,
    channels,
    width,
    blocks,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    LAST: tl.constexpr,
):
    """The offsets of a tile's values, and which of these exist."""
    found = place(tile, group, rows, channels, width, blocks, DOWN, ACROSS, LAST)
    return found[2], found[3]


@triton.jit
def counted(mask, row, column, width, inside, LAST: tl.constexpr, MASKED: tl.constexpr):
    """Which values of a tile count: those that exist, where the mask, one byte per value of a channel, is not 0."""
    if MASKED:
        if LAST:
            at = row.to(tl.int64)[:, None] + tl.zeros_like(column)[None, :]
        else:
            at = row.to(tl.int64)[:, None] * width + column[None, :]
        found = inside & (tl.load(mask + at, mask=inside, other=0) != 0)
    else:
        found = inside
    return found


@triton.jit
def channel_of(group, channels, ACROSS: tl.constexpr, LAST: tl.constexpr):
    """The number of each channel in a tile of this group, and whether there is such a channel."""
    if LAST:
        channel = group * ACROSS + tl.arange(0, ACROSS)
    else:
        channel = group
    return channel, channel < channels


@triton.jit
def bytes_at(row, column_byte, group, rows, channels, width, LAST: tl.constexpr):
    """The offsets of a tile's bytes of bits, 8 columns to a byte, and which of these exist."""
    across = (width + 7) // 8
    if LAST:
        line = row.to(tl.int64)
    else:
        line = row.to(tl.int64) * channels + group
    at = line[:, None] * across + column_byte[None, :]
    inside = (row < rows)[:, None] & (column_byte < across)[None, :]
    return at, inside


@triton.jit
def column_bytes(tile, group, blocks, ACROSS: tl.constexpr, LAST: tl.constexpr):
    """The number of each byte of bits along a row of a tile."""
    if LAST:
        first = group * (ACROSS // 8)
    else:
        first = tile % blocks * (ACROSS // 8)
    return first + tl.arange(0, ACROSS // 8)


@triton.jit
def packed(flags, DOWN: tl.constexpr, ACROSS: tl.constexpr):
    """8 flags along a row as the bits of a byte, the first one lowest."""
    eights = tl.reshape(flags.to(tl.int32), [DOWN, ACROSS // 8, 8])
    return tl.sum(eights << tl.arange(0, 8)[None, None, :], axis=2).to(tl.uint8)


@triton.jit
def unpacked(octets, DOWN: tl.constexpr, ACROSS: tl.constexpr):
    """The flags that ``packed`` has packed."""
    eights = (octets.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(eights, [DOWN, ACROSS]) != 0
