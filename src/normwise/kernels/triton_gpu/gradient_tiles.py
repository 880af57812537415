r"""The work of the backward's kernels on one tile, and on the sums of all tiles.

With :math:`g = dy \cdot f'(z)` and :math:`d = x - \mu`, the gradient of x is linear in g and d, and two sums over
the channel are the coefficients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from normwise.kernels.triton_gpu.activations import slope_of_bit, sloped
from normwise.kernels.triton_gpu.tiles import along, bytes_at, counted, parts_of, place, summed, unpacked


class Given(NamedTuple):
    """The inputs of a tile of the backward."""

    dy: Any
    x: Any
    residual: Any
    mask: Any
    bits: Any
    setting: Any  # of the activation


class Gradients(NamedTuple):
    """The memory for the gradients that are as large as x."""

    dx: Any
    dresidual: Any


class Slope(NamedTuple):
    """The gradient of x is ``a * g - b - c * (x - mean)``."""

    a: Any
    b: Any
    c: Any


@triton.jit
def read(given, normal, tile, lies, TILE: tl.constexpr, LINE: tl.constexpr, POLICY: tl.constexpr):
    """A tile's g and x - mean, both 0 where nothing counts; its offsets, which values exist, and which count.

    POLICY: of the cache for what is read, "evict_first" where nobody reads it again.
    """
    row, column, at, inside = place(tile, lies, TILE)
    g = tl.load(given.dy + at, mask=inside, other=0.0, eviction_policy=POLICY).to(tl.float32)
    x_values = tl.load(given.x + at, mask=inside, other=0.0, eviction_policy=POLICY).to(tl.float32)
    apart = x_values - along(normal.high, TILE.last)
    if LINE.bits:
        at_byte, exists = bytes_at(tile, row, lies, TILE)
        flags = unpacked(tl.load(given.bits + at_byte, mask=exists, other=0), TILE)
        g *= slope_of_bit(flags, given.setting, LINE.activation)
    elif LINE.activation != 0:
        z = tl.fma(
            apart,
            tl.zeros_like(apart) + along(normal.factor, TILE.last),
            tl.zeros_like(apart) + along(normal.offset, TILE.last),
        )
        if LINE.residual:
            z += tl.load(given.residual + at, mask=inside, other=0.0, eviction_policy=POLICY).to(tl.float32)
        g *= sloped(z, given.setting, LINE.activation)
    counts = counted(given.mask, row, column, at, lies, inside, TILE)
    return tl.where(counts, g, 0.0), tl.where(counts, apart, 0.0), at, inside, counts


@triton.jit
def write_gradient(
    g,
    apart,
    at,
    inside,
    counts,
    gradients,
    slope,
    TILE: tl.constexpr,
    BY_BATCH: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_RESIDUAL: tl.constexpr,
):
    """Store ``a * g - b - c * apart``, or ``a * g`` where the statistics are constants, and g."""
    if WANTS_X:
        found = along(slope.a, TILE.last) * g
        if BY_BATCH:
            found = found - (along(slope.b, TILE.last) + along(slope.c, TILE.last) * apart)
            if TILE.masked:
                found = tl.where(counts, found, 0.0)
        dx = gradients.dx
        tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside, eviction_policy="evict_first")
    if WANTS_RESIDUAL:
        dresidual = gradients.dresidual
        tl.store(dresidual + at, g.to(dresidual.dtype.element_ty), mask=inside, eviction_policy="evict_first")


@triton.jit
def sums_joined(
    partials, number, channel, channels, splits, SPLITS: tl.constexpr, LAST: tl.constexpr, MASKED: tl.constexpr
):
    """The sums of g and of g times x normalized over all parts of a channel, and how many values count."""
    at, there = parts_of(channel, channels, splits, SPLITS, LAST)
    step = splits * channels
    of_g = summed(tl.load(partials + at, mask=there, other=0.0), LAST)
    of_scale = summed(tl.load(partials + step + at, mask=there, other=0.0), LAST)
    if MASKED:
        count = summed(tl.load(partials + 2 * step + at, mask=there, other=0.0), LAST)
    else:
        count = number
    return of_g, of_scale, count


@triton.jit
def slope_of(of_g, of_scale, count, normal):
    """``Slope`` with batch statistics, from the sums of g and of g times x normalized."""
    some = tl.maximum(count, 1.0)
    by_scale = normal.inverse * (of_scale / some)
    return Slope(normal.factor, normal.factor * (of_g / some - normal.low * by_scale), normal.factor * by_scale)
