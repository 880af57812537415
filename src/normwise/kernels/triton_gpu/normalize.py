"""The forward: by given moments, by those of the parts that ``gather`` found, and in one launch.

Each is ``activation(fma(x - high, factor, offset) + residual)``: the mean is a pair of float32, of which the lower one
is in the offset. The backward takes the sign from the very same expression.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normwise.kernels.triton_gpu.activations import activated, tells_slope
from normwise.kernels.triton_gpu.moments import joined
from normwise.kernels.triton_gpu.tiles import (
    along,
    bytes_at,
    channel_of,
    column_bytes,
    counted,
    packed,
    place,
    summed,
    values_of,
)


@triton.jit
def line_of(mean, var, eps, scale, shift, channel, there, SCALED: tl.constexpr, SHIFTED: tl.constexpr):
    """What normalization is for each channel: the mean as a pair, 1 / deviation, factor and offset."""
    high = mean.to(tl.float32)
    low = (mean - high.to(tl.float64)).to(tl.float32)
    inverse = tl.div_rn(1.0, tl.sqrt_rn(var.to(tl.float32) + eps))
    if SCALED:
        factor = inverse * tl.load(scale + channel, mask=there, other=0.0).to(tl.float32)
    else:
        factor = inverse
    if SHIFTED:
        offset = tl.load(shift + channel, mask=there, other=0.0).to(tl.float32) - low * factor
    else:
        offset = -low * factor
    return high, low, inverse, factor, offset


@triton.jit
def write(
    x_values,
    high,
    factor,
    offset,
    residual,
    mask,
    y,
    bits,
    setting,
    tile,
    group,
    rows,
    channels,
    width,
    blocks,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    LAST: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    MASKED: tl.constexpr,
    BITS: tl.constexpr,
):
    """Normalize, add, activate and store one tile, and its bits for the backward."""
    row, column, at, inside = place(tile, group, rows, channels, width, blocks, DOWN, ACROSS, LAST)
    z = tl.fma(
        x_values - along(high, LAST),
        tl.zeros_like(x_values) + along(factor, LAST),
        tl.zeros_like(x_values) + along(offset, LAST),
    )
    if RESIDUAL:
        z += tl.load(residual + at, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    value = activated(z, setting, ACTIVATION)
    if MASKED:
        value = tl.where(counted(mask, row, column, width, inside, LAST, MASKED), value, 0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside, eviction_policy="evict_first")
    if BITS:
        column_byte = column_bytes(tile, group, blocks, ACROSS, LAST)
        at_byte, exists = bytes_at(row, column_byte, group, rows, channels, width, LAST)
        flags = tells_slope(z, ACTIVATION) & inside
        tl.store(bits + at_byte, packed(flags, DOWN, ACROSS), mask=exists)


@triton.jit(do_not_specialize=["first", "rows", "channels", "vectors", "blocks", "tiles", "per", "splits"])
def normalize(
    x,
    residual,
    mask,
    partials,
    mean,
    var,
    scale,
    shift,
    y,
    bits,
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
    SPLITS: tl.constexpr,
    LAST: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    MASKED: tl.constexpr,
    BITS: tl.constexpr,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
):
    """Normalize ``per`` tiles, from the last to the first, so that those read last before are found in the cache.

    SPLITS: 0 to read mean and var, or else a power of two, as many partial moments at most: these are then put
    together in every program, and the first one writes mean and var.
    """
    group = first + tl.num_programs(0) - 1 - tl.program_id(0)
    split = tl.num_programs(1) - 1 - tl.program_id(1)
    width = vectors * VECTOR
    channel, there = channel_of(group, channels, ACROSS, LAST)
    if SPLITS == 0:
        middle = tl.load(mean + channel, mask=there, other=0.0).to(tl.float64)
        variance = tl.load(var + channel, mask=there, other=0.0).to(tl.float64)
    else:
        middle, variance = joined(partials, channel, channels, splits, SPLITS, LAST)
        if split == 0:
            tl.store(mean + channel, middle, mask=there)
            tl.store(var + channel, variance, mask=there)
    high, _low, _inverse, factor, offset = line_of(middle, variance, eps, scale, shift, channel, there, SCALED, SHIFTED)
    begin = split * per
    end = tl.minimum(begin + per, tiles)
    for back in range(begin, end):
        tile = begin + end - 1 - back
        at, inside = values_of(tile, group, rows, channels, width, blocks, DOWN, ACROSS, LAST)
        values = tl.load(x + at, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
        write(
            values,
            high,
            factor,
            offset,
            residual,
            mask,
            y,
            bits,
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


@triton.jit(do_not_specialize=["rows", "channels", "vectors"])
def normalize_held(
    x,
    residual,
    mask,
    mean,
    var,
    scale,
    shift,
    y,
    bits,
    eps,
    setting,
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
):
    """All of the forward with batch statistics where one tile holds a channel: x stays in registers between."""
    group = tl.program_id(0)
    width = vectors * VECTOR
    row, column, at, inside = place(0, group, rows, channels, width, 1, DOWN, ACROSS, LAST)
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    counts = counted(mask, row, column, width, inside, LAST, MASKED)
    some = tl.maximum(summed(counts.to(tl.float32), LAST), 1.0)
    about = summed(tl.where(counts, values, 0.0), LAST) / some
    apart = tl.where(counts, values - along(about, LAST), 0.0)
    rest = summed(apart, LAST) / some
    squared = apart - along(rest, LAST)
    variance = (summed(tl.where(counts, squared * squared, 0.0), LAST) / some).to(tl.float64)
    middle = about.to(tl.float64) + rest.to(tl.float64)
    channel, there = channel_of(group, channels, ACROSS, LAST)
    tl.store(mean + channel, middle, mask=there)
    tl.store(var + channel, variance, mask=there)
    high, _low, _inverse, factor, offset = line_of(middle, variance, eps, scale, shift, channel, there, SCALED, SHIFTED)
    write(
        values,
        high,
        factor,
        offset,
        residual,
        mask,
        y,
        bits,
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
