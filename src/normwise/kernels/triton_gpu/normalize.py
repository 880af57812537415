"""The forward: by given moments, by those of the parts that ``gather`` found, and in one launch.

Each is ``activation(fma(x - high, factor, offset) + residual)``: the mean is a pair of float32, and the lower one
is in the offset. The backward takes the sign from the very same expression.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from normwise.kernels.triton_gpu.activations import activated, tells_slope
from normwise.kernels.triton_gpu.moments import gather_part, joined
from normwise.kernels.triton_gpu.tiles import (
    Lies,
    along,
    bytes_at,
    channel_of,
    comes_last,
    counted,
    packed,
    place,
    summed,
    values_of,
)


class Normal(NamedTuple):
    """The numbers that normalize each channel: the mean as a pair, 1 / deviation, factor and offset."""

    high: Any
    low: Any
    inverse: Any
    factor: Any
    offset: Any


class Written(NamedTuple):
    """The inputs of a tile of the forward beside x, and the memory for its outputs."""

    residual: Any
    mask: Any
    y: Any
    bits: Any
    setting: Any  # of the activation


@triton.jit
def normal_of(mean, var, eps, scale, shift, channel, there, LINE: tl.constexpr):
    """``Normal`` of moments in float64."""
    high = mean.to(tl.float32)
    low = (mean - high.to(tl.float64)).to(tl.float32)
    inverse = tl.div_rn(1.0, tl.sqrt_rn(var.to(tl.float32) + eps))
    if LINE.scaled:
        factor = inverse * tl.load(scale + channel, mask=there, other=0.0).to(tl.float32)
    else:
        factor = inverse
    if LINE.shifted:
        offset = tl.load(shift + channel, mask=there, other=0.0).to(tl.float32) - low * factor
    else:
        offset = -low * factor
    return Normal(high, low, inverse, factor, offset)


@triton.jit
def write(x_values, normal, written, tile, lies, TILE: tl.constexpr, LINE: tl.constexpr):
    """Normalize, add, activate and store one tile, and its bits for the backward."""
    row, column, at, inside = place(tile, lies, TILE)
    z = tl.fma(
        x_values - along(normal.high, TILE.last),
        tl.zeros_like(x_values) + along(normal.factor, TILE.last),
        tl.zeros_like(x_values) + along(normal.offset, TILE.last),
    )
    if LINE.residual:
        z += tl.load(written.residual + at, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    value = activated(z, written.setting, LINE.activation)
    if TILE.masked:
        value = tl.where(counted(written.mask, row, column, at, lies, inside, TILE), value, 0.0)
    tl.store(written.y + at, value.to(written.y.dtype.element_ty), mask=inside, eviction_policy="evict_first")
    if LINE.bits:
        at_byte, exists = bytes_at(tile, row, lies, TILE)
        flags = tells_slope(z, LINE.activation) & inside
        tl.store(written.bits + at_byte, packed(flags, TILE), mask=exists)


@triton.jit
def normalize_part(x, normal, written, begin, end, lies, TILE: tl.constexpr, LINE: tl.constexpr):
    """Normalize tiles, from the last to the first, so that those read last before are found in the cache."""
    for back in range(begin, end):
        tile = begin + end - 1 - back
        at, inside = values_of(tile, lies, TILE)
        values = tl.load(x + at, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
        write(values, normal, written, tile, lies, TILE, LINE)


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
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
):
    """Normalize ``per`` tiles, the last groups and parts first.

    SPLITS: 0 to read mean and var, or else a power of two, as many partial moments at most: these are then put
    together in every program, and the first one writes mean and var.
    """
    group = first + tl.num_programs(0) - 1 - tl.program_id(0)
    split = tl.num_programs(1) - 1 - tl.program_id(1)
    lies = Lies(group, rows, channels, vectors * TILE.vector, blocks)
    channel, there = channel_of(lies, TILE)
    if SPLITS == 0:
        middle = tl.load(mean + channel, mask=there, other=0.0).to(tl.float64)
        variance = tl.load(var + channel, mask=there, other=0.0).to(tl.float64)
    else:
        middle, variance = joined(partials, channel, channels, splits, SPLITS, TILE.last)
        if split == 0:
            tl.store(mean + channel, middle, mask=there)
            tl.store(var + channel, variance, mask=there)
    normal = normal_of(middle, variance, eps, scale, shift, channel, there, LINE)
    begin = split * per
    written = Written(residual, mask, y, bits, setting)
    normalize_part(x, normal, written, begin, tl.minimum(begin + per, tiles), lies, TILE, LINE)


@triton.jit(do_not_specialize=["rows", "channels", "vectors", "blocks", "tiles", "per", "splits"])
def normalize_by_last(
    x,
    residual,
    mask,
    partials,
    counters,
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
    blocks,
    tiles,
    per,
    splits,
    SPLITS: tl.constexpr,
    STEADY: tl.constexpr,
    TILE: tl.constexpr,
    LINE: tl.constexpr,
):
    """All of the forward with batch statistics in one launch: many gather, and the last of a group normalizes it.

    The last one reads partial moments in the order of the parts, whoever came last, so that every run gives the same.
    """
    group = tl.program_id(0)
    lies = Lies(group, rows, channels, vectors * TILE.vector, blocks)
    gather_part(x, mask, partials, tl.program_id(1), per, tiles, splits, lies, TILE, STEADY)
    if comes_last(counters + group, splits):
        channel, there = channel_of(lies, TILE)
        middle, variance = joined(partials, channel, channels, splits, SPLITS, TILE.last)
        tl.store(mean + channel, middle, mask=there)
        tl.store(var + channel, variance, mask=there)
        normal = normal_of(middle, variance, eps, scale, shift, channel, there, LINE)
        normalize_part(x, normal, Written(residual, mask, y, bits, setting), 0, tiles, lies, TILE, LINE)


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
    TILE: tl.constexpr,
    LINE: tl.constexpr,
):
    """All of the forward with batch statistics where one tile holds a channel: x stays in registers between."""
    lies = Lies(tl.program_id(0), rows, channels, vectors * TILE.vector, 1)
    row, column, at, inside = place(0, lies, TILE)
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    counts = counted(mask, row, column, at, lies, inside, TILE)
    some = tl.maximum(summed(counts.to(tl.float32), TILE.last), 1.0)
    about = summed(tl.where(counts, values, 0.0), TILE.last) / some
    apart = tl.where(counts, values - along(about, TILE.last), 0.0)
    rest = summed(apart, TILE.last) / some
    squared = apart - along(rest, TILE.last)
    variance = (summed(tl.where(counts, squared * squared, 0.0), TILE.last) / some).to(tl.float64)
    middle = about.to(tl.float64) + rest.to(tl.float64)
    channel, there = channel_of(lies, TILE)
    tl.store(mean + channel, middle, mask=there)
    tl.store(var + channel, variance, mask=there)
    normal = normal_of(middle, variance, eps, scale, shift, channel, there, LINE)
    write(values, normal, Written(residual, mask, y, bits, setting), 0, lies, TILE, LINE)
