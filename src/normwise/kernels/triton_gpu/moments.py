r"""The moments of one part of a channel, and those of all parts together.

Each place of a tile (a lane) has its own mean and sum of squares, by Welford's formula, about the first value that it
met. So no square of a large mean is ever summed, whatever the mean and the order of the values. The lanes, and after
them the programs, are put together by Chan's formula

.. math:: \bar m = \frac{\sum_k n_k m_k}{n}, \quad S = \sum_k \big(S_k + n_k (m_k - \bar m)^2\big)

where a mean is a pair of float32, a reference and a distance from it. Nothing is added up in an order that may change
from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normwise.kernels.triton_gpu.tiles import (
    Lies,
    along,
    channel_of,
    counted,
    parts_of,
    place,
    summed,
    values_of,
    zeros,
)


@triton.jit
def together(n, reference, mean, squares, LAST: tl.constexpr):
    """Chan's formula for each channel of a tile, of lanes or of parts: count, reference, mean about it, and squares."""
    met = n > 0
    about = summed(tl.where(met, reference, 0.0), LAST) / tl.maximum(summed(met.to(tl.float32), LAST), 1.0)
    apart = tl.where(met, (reference - along(about, LAST)) + mean, 0.0)
    count = summed(n, LAST)
    middle = summed(n * apart, LAST) / tl.maximum(count, 1.0)
    rest = apart - along(middle, LAST)
    return count, about, middle, summed(tl.where(met, squares + n * rest * rest, 0.0), LAST)


@triton.jit
def gather_part(x, mask, partials, split, per, tiles, splits, lies, TILE: tl.constexpr, STEADY: tl.constexpr):
    """The moments of ``per`` tiles of a channel, into ``partials`` (4, splits, channels).

    STEADY: each lane meets a value in every tile but perhaps the last, so that one count serves all of them.
    """
    begin = split * per
    end = tl.minimum(begin + per, tiles)
    row, column, offset, inside = place(begin, lies, TILE)
    if STEADY:
        reference = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
        mean = zeros(TILE)
        squares = zeros(TILE)
        for tile in range(begin + 1, end):
            at, here = values_of(tile, lies, TILE)
            apart = tl.load(x + at, mask=here, other=0.0).to(tl.float32) - reference
            share = 1.0 / (tile - begin + 1).to(tl.float32)
            before = apart - mean
            moved = mean + before * share
            squares = tl.where(here, squares + before * (apart - moved), squares)
            mean = tl.where(here, moved, mean)
        met = tl.maximum(tl.minimum(lies.rows, end * TILE.down) - row + (TILE.down - 1), 0) // TILE.down
        n = tl.where((column < lies.width)[None, :], met[:, None].to(tl.float32), 0.0)
    else:
        reference = zeros(TILE)
        mean = zeros(TILE)
        squares = zeros(TILE)
        n = zeros(TILE)
        for tile in range(begin, end):
            down, across, at, here = place(tile, lies, TILE)
            value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
            here = counted(mask, down, across, at, lies, here, TILE)
            reference = tl.where(here & (n == 0), value, reference)
            n = tl.where(here, n + 1.0, n)
            apart = value - reference
            before = apart - mean
            moved = mean + before / tl.maximum(n, 1.0)
            squares = tl.where(here, squares + before * (apart - moved), squares)
            mean = tl.where(here, moved, mean)
    count, about, middle, sum_of_squares = together(n, reference, mean, squares, TILE.last)
    channel, there = channel_of(lies, TILE)
    at = partials + split * lies.channels + channel
    step = splits * lies.channels
    tl.store(at, count, mask=there)
    tl.store(at + step, about, mask=there)
    tl.store(at + 2 * step, middle, mask=there)
    tl.store(at + 3 * step, sum_of_squares, mask=there)


@triton.jit(do_not_specialize=["first", "rows", "channels", "vectors", "blocks", "tiles", "per", "splits"])
def gather(
    x,
    mask,
    partials,
    first,
    rows,
    channels,
    vectors,
    blocks,
    tiles,
    per,
    splits,
    TILE: tl.constexpr,
    STEADY: tl.constexpr,
):
    """``gather_part`` in every program: groups of channels along the first axis of the grid, parts along the other."""
    lies = Lies(first + tl.program_id(0), rows, channels, vectors * TILE.vector, blocks)
    gather_part(x, mask, partials, tl.program_id(1), per, tiles, splits, lies, TILE, STEADY)


@triton.jit
def joined(partials, channel, channels, splits, SPLITS: tl.constexpr, LAST: tl.constexpr):
    """The mean and variance of all parts of a channel, in float64."""
    at, there = parts_of(channel, channels, splits, SPLITS, LAST)
    step = splits * channels
    n = tl.load(partials + at, mask=there, other=0.0)
    reference = tl.load(partials + step + at, mask=there, other=0.0)
    mean = tl.load(partials + 2 * step + at, mask=there, other=0.0)
    squares = tl.load(partials + 3 * step + at, mask=there, other=0.0)
    count, about, middle, sum_of_squares = together(n, reference, mean, squares, LAST)
    variance = sum_of_squares / tl.maximum(count, 1.0)
    return about.to(tl.float64) + middle.to(tl.float64), variance.to(tl.float64)


@triton.jit(do_not_specialize=["first", "behind", "channels", "splits"])
def finish(
    partials,
    mean,
    var,
    first,
    behind,
    channels,
    splits,
    SPLITS: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """The moments of every channel, from those of its parts; the programs of ``normalize`` then read them as given."""
    channel = first + tl.program_id(0) * ACROSS + tl.arange(0, ACROSS)
    middle, variance = joined(partials, channel, channels, splits, SPLITS, True)
    tl.store(mean + channel, middle, mask=channel < behind)
    tl.store(var + channel, variance, mask=channel < behind)
