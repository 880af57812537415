r"""The kernels of the backward: the two sums of each channel, then the gradients of x and of the residual.

Every program sums g and :math:`g (x - \mu)` for its part of a channel, in float32 lanes first;
:math:`\sum g \hat x` is the second times 1 / deviation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normwise.kernels.triton_gpu.gradient_tiles import read, slope_line, sums_joined, write_gradient
from normwise.kernels.triton_gpu.normalize import line_of
from normwise.kernels.triton_gpu.tiles import channel_of, summed


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
    partials,
    dx,
    dresidual,
    eps,
    setting,
    first,
    rows,
    channels,
    vectors,
    blocks,
    tiles,
    per,
    splits,
    VECTOR: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    LAST: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    MASKED: tl.constexpr,
    BITS: tl.constexpr,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """The sums of ``per`` tiles of a channel, into ``partials`` (3, splits, channels).

    WANTS_X, WANTS_RESIDUAL: with running statistics the gradients need no sums, and are written in the same sweep.
    """
    group, split = first + tl.program_id(0), tl.program_id(1)
    width = vectors * VECTOR
    channel, there = channel_of(group, channels, ACROSS, LAST)
    middle = tl.load(mean + channel, mask=there, other=0.0).to(tl.float64)
    variance = tl.load(var + channel, mask=there, other=0.0).to(tl.float64)
    high, low, inverse, factor, offset = line_of(middle, variance, eps, scale, shift, channel, there, SCALED, SHIFTED)
    begin = split * per
    end = tl.minimum(begin + per, tiles)
    of_g = tl.zeros([DOWN, ACROSS], tl.float32)
    of_products = tl.zeros([DOWN, ACROSS], tl.float32)
    n = tl.zeros([DOWN, ACROSS], tl.float32)
    for tile in range(begin, end):
        g, apart, at, inside, counts = read(
            dy,
            x,
            residual,
            mask,
            bits,
            high,
            factor,
            offset,
            setting,
            tile,
            group,
            rows,
            channels,
            width,
            blocks,
            DOWN,
            ACROSS,
            LAST,
            ACTIVATION,
            RESIDUAL,
            MASKED,
            BITS,
        )
        of_g += g
        of_products += g * apart
        if MASKED:
            n += counts.to(tl.float32)
        write_gradient(
            g, apart, at, inside, counts, dx, dresidual, factor, factor, factor,
            LAST, False, MASKED, WANTS_X, WANTS_RESIDUAL,
        )  # fmt: skip
    at = partials + split * channels + channel
    step = splits * channels
    total = summed(of_g, LAST)
    tl.store(at, total, mask=there)
    tl.store(at + step, inverse * (summed(of_products, LAST) - low * total), mask=there)
    if MASKED:
        tl.store(at + 2 * step, summed(n, LAST), mask=there)


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
    partials,
    dx,
    dresidual,
    dscale,
    dshift,
    eps,
    setting,
    number,
    first,
    rows,
    channels,
    vectors,
    blocks,
    tiles,
    per,
    splits,
    VECTOR: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    SPLITS: tl.constexpr,
    LAST: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    MASKED: tl.constexpr,
    BITS: tl.constexpr,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """The gradients of x and the residual in ``per`` tiles, from the last to the first.

    SPLITS: 1 where ``partials`` holds the sums of ``finish_sums``, or else a power of two, as many parts at most: the
    sums are then made in every program, and the first one writes the gradients of scale and shift.
    """
    group = first + tl.num_programs(0) - 1 - tl.program_id(0)
    split = tl.num_programs(1) - 1 - tl.program_id(1)
    width = vectors * VECTOR
    channel, there = channel_of(group, channels, ACROSS, LAST)
    middle = tl.load(mean + channel, mask=there, other=0.0).to(tl.float64)
    variance = tl.load(var + channel, mask=there, other=0.0).to(tl.float64)
    high, low, inverse, factor, offset = line_of(middle, variance, eps, scale, shift, channel, there, SCALED, SHIFTED)
    of_g, of_scale, count = sums_joined(partials, number, channel, channels, splits, SPLITS, LAST, MASKED)
    if SPLITS > 1:
        if split == 0:
            tl.store(dshift + channel, of_g.to(dshift.dtype.element_ty), mask=there)
            tl.store(dscale + channel, of_scale.to(dscale.dtype.element_ty), mask=there)
    a, b, c = slope_line(of_g, of_scale, count, low, inverse, factor)
    begin = split * per
    end = tl.minimum(begin + per, tiles)
    for back in range(begin, end):
        g, apart, at, inside, counts = read(
            dy,
            x,
            residual,
            mask,
            bits,
            high,
            factor,
            offset,
            setting,
            begin + end - 1 - back,
            group,
            rows,
            channels,
            width,
            blocks,
            DOWN,
            ACROSS,
            LAST,
            ACTIVATION,
            RESIDUAL,
            MASKED,
            BITS,
        )
        write_gradient(g, apart, at, inside, counts, dx, dresidual, a, b, c, LAST, True, MASKED, True, WANTS_RESIDUAL)


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
    dscale,
    dshift,
    eps,
    setting,
    number,
    rows,
    channels,
    vectors,
    VECTOR: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    LAST: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    MASKED: tl.constexpr,
    BITS: tl.constexpr,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
    BY_BATCH: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """All of the backward where one tile holds a channel: g and x stay in registers between."""
    group = tl.program_id(0)
    width = vectors * VECTOR
    channel, there = channel_of(group, channels, ACROSS, LAST)
    middle = tl.load(mean + channel, mask=there, other=0.0).to(tl.float64)
    variance = tl.load(var + channel, mask=there, other=0.0).to(tl.float64)
    high, low, inverse, factor, offset = line_of(middle, variance, eps, scale, shift, channel, there, SCALED, SHIFTED)
    g, apart, at, inside, counts = read(
        dy,
        x,
        residual,
        mask,
        bits,
        high,
        factor,
        offset,
        setting,
        0,
        group,
        rows,
        channels,
        width,
        1,
        DOWN,
        ACROSS,
        LAST,
        ACTIVATION,
        RESIDUAL,
        MASKED,
        BITS,
    )
    of_g = summed(g, LAST)
    of_scale = inverse * (summed(g * apart, LAST) - low * of_g)
    tl.store(dshift + channel, of_g.to(dshift.dtype.element_ty), mask=there)
    tl.store(dscale + channel, of_scale.to(dscale.dtype.element_ty), mask=there)
    if MASKED:
        count = summed(counts.to(tl.float32), LAST)
    else:
        count = number
    a, b, c = slope_line(of_g, of_scale, count, low, inverse, factor)
    write_gradient(
        g, apart, at, inside, counts, dx, dresidual, a, b, c, LAST, BY_BATCH, MASKED, WANTS_X, WANTS_RESIDUAL
    )
