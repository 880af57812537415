"""The place of a tile in memory, and the sums of its values: code that all kernels share.

A tensor is a matrix. Where the channels come last in memory, a row holds one value of every channel, and a tile has
columns of several channels. Where they come first, a row holds one sample's values of one channel, and a tile has one
channel only. A value per channel is then a vector along the columns (``TILE.last``), or one number.
"""

# Triton reads the source; nothing here is called by Python itself.

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Lies(NamedTuple):
    """The place of a group of channels in the matrix; its numbers are known when the kernel runs."""

    group: Any
    rows: Any
    channels: Any
    width: Any  # of a row
    blocks: Any  # tiles side by side in a row


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
def zeros(TILE: tl.constexpr):
    """A tile of float32 zeros."""
    DOWN: tl.constexpr = TILE.down  # Triton takes no constant's field into a list
    ACROSS: tl.constexpr = TILE.across
    return tl.zeros([DOWN, ACROSS], tl.float32)


@triton.jit
def place(tile, lies, TILE: tl.constexpr):
    """A tile's row numbers and columns, the offsets of its values, and which of these exist."""
    if TILE.last:
        row = tile * TILE.down + tl.arange(0, TILE.down)
        column = lies.group * TILE.across + tl.arange(0, TILE.across)
        start = row.to(tl.int64) * lies.width
    else:
        row = tile // lies.blocks * TILE.down + tl.arange(0, TILE.down)
        column = tile % lies.blocks * TILE.across + tl.arange(0, TILE.across)
        start = (row.to(tl.int64) * lies.channels + lies.group) * lies.width
    offset = start[:, None] + column[None, :]
    inside = (row < lies.rows)[:, None] & (column < lies.width)[None, :]
    return row, column, offset, inside


@triton.jit
def values_of(tile, lies, TILE: tl.constexpr):
    """The offsets of a tile's values, and which of these exist."""
    found = place(tile, lies, TILE)
    return found[2], found[3]


@triton.jit
def counted(mask, row, column, offset, lies, inside, TILE: tl.constexpr):
    """Which values of a tile count: those that exist, where the mask is not 0.

    It has one byte for each value of a channel, samples first, or one for each value of the tensor, laid as that is.
    """
    if TILE.masked:
        if TILE.each:
            at = offset
        elif TILE.last:
            at = row.to(tl.int64)[:, None] + tl.zeros_like(column)[None, :]
        else:
            at = row.to(tl.int64)[:, None] * lies.width + column[None, :]
        found = inside & (tl.load(mask + at, mask=inside, other=0) != 0)
    else:
        found = inside
    return found


@triton.jit
def channel_of(lies, TILE: tl.constexpr):
    """The number of each channel in a tile of this group, and whether there is such a channel."""
    if TILE.last:
        channel = lies.group * TILE.across + tl.arange(0, TILE.across)
    else:
        channel = lies.group
    return channel, channel < lies.channels


@triton.jit
def parts_of(channel, channels, splits, SPLITS: tl.constexpr, LAST: tl.constexpr):
    """The offsets of all partial results of a group's channels, a row for each part, and which of these exist."""
    part = tl.arange(0, SPLITS)
    if LAST:
        at = part[:, None] * channels + channel[None, :]
        there = (part < splits)[:, None] & (channel < channels)[None, :]
    else:
        at = part[:, None] * channels + channel
        there = (part < splits)[:, None]
    return at, there


@triton.jit
def bytes_at(tile, row, lies, TILE: tl.constexpr):
    """The offsets of a tile's bytes of bits, 8 columns to a byte, and which of these exist."""
    across = (lies.width + 7) // 8
    if TILE.last:
        first = lies.group * (TILE.across // 8)
        line = row.to(tl.int64)
    else:
        first = tile % lies.blocks * (TILE.across // 8)
        line = row.to(tl.int64) * lies.channels + lies.group
    column_byte = first + tl.arange(0, TILE.across // 8)
    at = line[:, None] * across + column_byte[None, :]
    inside = (row < lies.rows)[:, None] & (column_byte < across)[None, :]
    return at, inside


@triton.jit
def packed(flags, TILE: tl.constexpr):
    """8 flags along a row as the bits of a byte, the first one lowest."""
    DOWN: tl.constexpr = TILE.down
    OCTETS: tl.constexpr = TILE.across // 8
    eights = tl.reshape(flags.to(tl.int32), [DOWN, OCTETS, 8])
    return tl.sum(eights << tl.arange(0, 8)[None, None, :], axis=2).to(tl.uint8)


@triton.jit
def unpacked(octets, TILE: tl.constexpr):
    """The flags that ``packed`` has packed."""
    eights = (octets.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    DOWN: tl.constexpr = TILE.down
    ACROSS: tl.constexpr = TILE.across
    return tl.reshape(eights, [DOWN, ACROSS]) != 0


@triton.jit
def comes_last(counter, programs):
    """Whether this program is the last of so many to come here; the counter is 0 before the first and after the last.

    No program waits for another. What all of them stored before they came here, the last one can read:

    * the barrier orders the stores of all threads of a program before the one atomic addition that one thread makes;
    * the addition releases them to the whole GPU, and acquires what earlier additions have released. Each of these
      reads what the one before it wrote, so that the last one has acquired what all others released, not only its
      neighbour (a chain of read-modify-write operations is one release sequence in PTX's and in LLVM's memory model);
    * Triton hands the number that was found to the other threads through shared memory, with a barrier between, which
      orders their loads behind it. They are plain loads, which take no value from before an acquire; Triton loads by
      ``ld.global`` and not by ``ld.global.nc``, which may.

    The counter is put back by the last program. The next launch on the stream begins when this one has ended.
    """
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(counter, 0)
    return last
