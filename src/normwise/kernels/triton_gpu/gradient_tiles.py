r"""What the kernels of the backward do with one tile, and with the sums of all tiles.

With :math:`g = dy \cdot f'(z)` and :math:`d = x - \mu`, the gradient of x is a line in g and d, of which two sums over
the channel are the coefficients.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normwise.kernels.triton_gpu.activations import slope_of_bit, sloped
from normwise.kernels.triton_gpu.tiles import (
    along,
    bytes_at,
    column_bytes,
    counted,
    place,
    unpacked,
)


@triton.jit
def read(
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
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    LAST: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    MASKED: tl.constexpr,
    BITS: tl.constexpr,
):
    """A tile's g and x - mean, both 0 where nothing counts; its offsets, which values exist, and which count.

    RESIDUAL: the residual was kept, because no bit tells the slope.
    """
    row, column, at, inside = place(tile, group, rows, channels, width, blocks, DOWN, ACROSS, LAST)
    g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    apart = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - along(high, LAST)
    if BITS:
        column_byte = column_bytes(tile, group, blocks, ACROSS, LAST)
        at_byte, exists = bytes_at(row, column_byte, group, rows, channels, width, LAST)
        flags = unpacked(tl.load(bits + at_byte, mask=exists, other=0), DOWN, ACROSS)
        g *= slope_of_bit(flags, setting, ACTIVATION)
    elif ACTIVATION != 0:
        z = tl.fma(
            apart,
            tl.zeros_like(apart) + along(factor, LAST),
            tl.zeros_like(apart) + along(offset, LAST),
        )
        if RESIDUAL:
            z += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        g *= sloped(z, setting, ACTIVATION)
    counts = counted(mask, row, column, width, inside, LAST, MASKED)
    return tl.where(counts, g, 0.0), tl.where(counts, apart, 0.0), at, inside, counts


@triton.jit
def write_gradient(
    g,
    apart,
    at,
    inside,
    counts,
    dx,
    dresidual,
    a,
    b,
    c,
    LAST: tl.constexpr,
    BY_BATCH: tl.constexpr,
    MASKED: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """Store ``a * g - b - c * apart``, or ``a * g`` where the statistics are constants, and g."""
    if WANTS_X:
        found = along(a, LAST) * g
        if BY_BATCH:
            found = found - (along(b, LAST) + along(c, LAST) * apart)
            if MASKED:
                found = tl.where(counts, found, 0.0)
        tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside, eviction_policy="evict_first")
    if WANTS_RESIDUAL:
        tl.store(dresidual + at, g.to(dresidual.dtype.element_ty), mask=inside, eviction_policy="evict_first")


@triton.jit
def sums_joined(
    partials, number, channel, channels, splits, SPLITS: tl.constexpr, LAST: tl.constexpr, MASKED: tl.constexpr
):
    """The sums of g and of g times x normalized over all parts of a channel, and how many values count."""
    part = tl.arange(0, SPLITS)
    if LAST:
        at = part[:, None] * channels + channel[None, :]
        there = (part < splits)[:, None] & (channel < channels)[None, :]
    else:
        at = part * channels + channel
        there = part < splits
    step = splits * channels
    of_g = tl.sum(tl.load(partials + at, mask=there, other=0.0), axis=0)
    of_scale = tl.sum(tl.load(partials + step + at, mask=there, other=0.0), axis=0)
    if MASKED:
        count = tl.sum(tl.load(partials + 2 * step + at, mask=there, other=0.0), axis=0)
    else:
        count = number
    return of_g, of_scale, count


@triton.jit
def slope_line(of_g, of_scale, count, low, inverse, factor):
    """The a, b and c of ``write_gradient`` with batch statistics, from the sums of g and of g times x normalized."""
    some = tl.maximum(count, 1.0)
    by_scale = inverse * (of_scale / some)
    return factor, factor * (of_g / some - low * by_scale), factor * by_scale
