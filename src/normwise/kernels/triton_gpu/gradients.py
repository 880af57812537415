r"""The kernels of the backward: the two sums of each channel, then the gradients of x and of the residual.

Every program sums g and :math:`g (x - \mu)` for its part of a channel, in float32 lanes first;
:math:`\sum g \hat x` is the second times 1 / deviation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normwise.kernels.triton_gpu.gradient_tiles import (
    Given,
    Gradients,
    Slope,
    read,
    slope_of,
    sums_joined,
    write_gradient,
)
from normwise.kernels.triton_gpu.normalize import normal_of
from normwise.kernels.triton_gpu.tiles import Lies, channel_of, comes_last, summed, zeros


@triton.jit
def normal_given(mean, var, eps, scale, shift, lies, TILE: tl.constexpr, LINE: tl.constexpr):
    """``Normal`` of the moments that the forward used."""
    channel, there = channel_of(lies, TILE)
    middle = tl.load(mean + channel, mask=there, other=0.0).to(tl.float64)
    variance = tl.load(var + channel, mask=there, other=0.0).to(tl.float64)
    return normal_of(middle, variance, eps, scale, shift, channel, there, LINE)


@triton.jit
def sum_part(
    given,
    gradients,
    normal,
    partials,
    split,
    per,
    tiles,
    splits,
    lies,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """The sums of ``per`` tiles of a channel, into ``partials`` (3, splits, channels).

    WANTS_X, WANTS_RESIDUAL: with running statistics the gradients need no sums, and are written in the same sweep; then
    nobody needs the number of values that count.
    """
    begin = split * per
    end = tl.minimum(begin + per, tiles)
    of_g = zeros(TILE)
    of_products = zeros(TILE)
    n = zeros(TILE)
    slope = Slope(normal.factor, normal.factor, normal.factor)
    for tile in range(begin, end):
        g, apart, at, inside, counts = read(given, normal, tile, lies, TILE, LINE, "")
        of_g += g
        of_products += g * apart
        if TILE.masked and not WANTS_X:
            n += counts.to(tl.float32)
        write_gradient(g, apart, at, inside, counts, gradients, slope, TILE, False, WANTS_X, WANTS_RESIDUAL)
    channel, there = channel_of(lies, TILE)
    at = partials + split * lies.channels + channel
    step = splits * lies.channels
    total = summed(of_g, TILE.last)
    tl.store(at, total, mask=there)
    tl.store(at + step, normal.inverse * (summed(of_products, TILE.last) - normal.low * total), mask=there)
    if TILE.masked and not WANTS_X:
        tl.store(at + 2 * step, summed(n, TILE.last), mask=there)


@triton.jit
def gradient_part(
    given,
    gradients,
    normal,
    slope,
    begin,
    end,
    lies,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """The gradients in tiles, from the last to the first."""
    for back in range(begin, end):
        tile = begin + end - 1 - back
        g, apart, at, inside, counts = read(given, normal, tile, lies, TILE, LINE, "evict_first")
        write_gradient(g, apart, at, inside, counts, gradients, slope, TILE, True, WANTS_X, WANTS_RESIDUAL)


@triton.jit(do_not_specialize=["first", "rows", "channels", "vectors", "blocks", "tiles", "per", "splits"])
def sum_gradients(
    dy,
    x,
    residual,
    mask,
    bits,
    mean,
    var,
    scale,
    shift,
    dx,
    dresidual,
    eps,
    setting,
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
    LINE: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """``sum_part`` in every program: groups of channels along the first axis of the grid, parts along the other."""
    lies = Lies(first + tl.program_id(0), rows, channels, vectors * TILE.vector, blocks)
    normal = normal_given(mean, var, eps, scale, shift, lies, TILE, LINE)
    given = Given(dy, x, residual, mask, bits, setting)
    gradients = Gradients(dx, dresidual)
    sum_part(
        given, gradients, normal, partials, tl.program_id(1), per, tiles, splits, lies, TILE, LINE, WANTS_X,
        WANTS_RESIDUAL,
    )  # fmt: skip


@triton.jit(do_not_specialize=["first", "behind", "channels", "splits"])
def finish_sums(
    partials,
    sums,
    dscale,
    dshift,
    first,
    behind,
    channels,
    splits,
    SPLITS: tl.constexpr,
    ACROSS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The sums of every channel over its parts: the gradients of scale and shift, and ``sums`` (3, channels)."""
    channel = first + tl.program_id(0) * ACROSS + tl.arange(0, ACROSS)
    there = channel < behind
    of_g, of_scale, count = sums_joined(partials, 1.0, channel, channels, splits, SPLITS, True, MASKED)
    tl.store(sums + channel, of_g, mask=there)
    tl.store(sums + channels + channel, of_scale, mask=there)
    if MASKED:
        tl.store(sums + 2 * channels + channel, count, mask=there)
    write_sums(of_g, of_scale, dscale, dshift, channel, there)


@triton.jit
def write_sums(of_g, of_scale, dscale, dshift, channel, there):
    """Store the gradients of scale and shift, which are the sums."""
    tl.store(dshift + channel, of_g.to(dshift.dtype.element_ty), mask=there)
    tl.store(dscale + channel, of_scale.to(dscale.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["first", "rows", "channels", "vectors", "blocks", "tiles", "per", "splits"])
def normalize_gradients(
    dy,
    x,
    residual,
    mask,
    bits,
    mean,
    var,
    scale,
    shift,
    dx,
    dresidual,
    eps,
    setting,
    partials,
    dscale,
    dshift,
    number,
    first,
    rows,
    channels,
    vectors,
    blocks,
    tiles,
    per,
    splits,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """The gradients of x and the residual in ``per`` tiles, the last groups and parts first.

    SPLITS: 1 where ``partials`` holds the sums of ``finish_sums``, or else a power of two, as many parts at most: the
    sums are then made in every program, and the first one writes the gradients of scale and shift.
    """
    split = tl.num_programs(1) - 1 - tl.program_id(1)
    group = first + tl.num_programs(0) - 1 - tl.program_id(0)
    lies = Lies(group, rows, channels, vectors * TILE.vector, blocks)
    normal = normal_given(mean, var, eps, scale, shift, lies, TILE, LINE)
    channel, there = channel_of(lies, TILE)
    of_g, of_scale, count = sums_joined(partials, number, channel, channels, splits, SPLITS, TILE.last, TILE.masked)
    if SPLITS > 1:
        if split == 0:
            write_sums(of_g, of_scale, dscale, dshift, channel, there)
    slope = slope_of(of_g, of_scale, count, normal)
    begin = split * per
    end = tl.minimum(begin + per, tiles)
    given = Given(dy, x, residual, mask, bits, setting)
    gradients = Gradients(dx, dresidual)
    gradient_part(given, gradients, normal, slope, begin, end, lies, TILE, LINE, True, WANTS_RESIDUAL)


@triton.jit(do_not_specialize=["rows", "channels", "vectors", "blocks", "tiles", "per", "splits"])
def gradients_by_last(
    dy,
    x,
    residual,
    mask,
    bits,
    mean,
    var,
    scale,
    shift,
    dx,
    dresidual,
    eps,
    setting,
    partials,
    counters,
    dscale,
    dshift,
    number,
    rows,
    channels,
    vectors,
    blocks,
    tiles,
    per,
    splits,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """All of the backward with batch statistics in one launch: many sum, and the last of a group writes its gradients.

    The last one reads the sums in the order of the parts, whoever came last, so that every run gives the same.
    """
    group = tl.program_id(0)
    lies = Lies(group, rows, channels, vectors * TILE.vector, blocks)
    normal = normal_given(mean, var, eps, scale, shift, lies, TILE, LINE)
    given = Given(dy, x, residual, mask, bits, setting)
    gradients = Gradients(dx, dresidual)
    sum_part(
        given, gradients, normal, partials, tl.program_id(1), per, tiles, splits, lies, TILE, LINE, False, False
    )  # fmt: skip
    if comes_last(counters + group, splits):
        channel, there = channel_of(lies, TILE)
        of_g, of_scale, count = sums_joined(partials, number, channel, channels, splits, SPLITS, TILE.last, TILE.masked)
        write_sums(of_g, of_scale, dscale, dshift, channel, there)
        slope = slope_of(of_g, of_scale, count, normal)
        gradient_part(given, gradients, normal, slope, 0, tiles, lies, TILE, LINE, True, WANTS_RESIDUAL)


@triton.jit(do_not_specialize=["rows", "channels", "vectors"])
def gradients_held(
    dy,
    x,
    residual,
    mask,
    bits,
    mean,
    var,
    scale,
    shift,
    dx,
    dresidual,
    eps,
    setting,
    dscale,
    dshift,
    number,
    rows,
    channels,
    vectors,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
    BY_BATCH: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """All of the backward where one tile holds a channel: g and x stay in registers between."""
    lies = Lies(tl.program_id(0), rows, channels, vectors * TILE.vector, 1)
    normal = normal_given(mean, var, eps, scale, shift, lies, TILE, LINE)
    given = Given(dy, x, residual, mask, bits, setting)
    g, apart, at, inside, counts = read(given, normal, 0, lies, TILE, LINE, "")
    of_g = summed(g, TILE.last)
    of_scale = normal.inverse * (summed(g * apart, TILE.last) - normal.low * of_g)
    channel, there = channel_of(lies, TILE)
    write_sums(of_g, of_scale, dscale, dshift, channel, there)
    if TILE.masked:
        count = summed(counts.to(tl.float32), TILE.last)
    else:
        count = number
    slope = slope_of(of_g, of_scale, count, normal)
    gradients = Gradients(dx, dresidual)
    write_gradient(g, apart, at, inside, counts, gradients, slope, TILE, BY_BATCH, WANTS_X, WANTS_RESIDUAL)
