"""The distance that an implementation may have from the reference: one table, from the dtype, the count and the mean.

Every bound is a sum of causes, each a unit roundoff times the size of what is rounded, in the unit of the result:

* the result itself, and what is added up to it (normalized value, shift, residual), is rounded to the dtype of x;
* a mean that is kept as one number in ``kept`` is off by half a unit of it: ``|mean| / s`` in normalized values, with
  s = sqrt(var + eps). The two-pass kernel keeps what the rounding left over, so it is free of this, but the
  reference is not: one float64, and the rounding of the sum behind it, always enters;
* float32 sums that run through n values in a row are off by about sqrt(n) roundings (``running``);
* a sum over n products is bounded by the sum of their sizes.

``SAFETY`` covers the handful of operations in a row, the slopes of the activations (at most 1.13) and those of their
derivatives. Nothing here is loosened for a particular test: a case that does not fit is a bug or a missing cause.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from normwise.kernels.reference import Gradients

F64 = NDArray[np.float64]

SAFETY = 6.0
SMALLEST = {  # below it float16 has no digits left; the others never get there
    torch.float16: 6e-8,
    torch.bfloat16: 0.0,
    torch.float32: 0.0,
    torch.float64: 0.0,
}


class Sizes(NamedTuple):
    """The sizes that decide how exact a computation can be; every array has the shape of x or broadcasts to it."""

    normalized: F64  # (x - mean) / s
    linear: F64  # normalized * scale + shift
    residual: F64
    ratio: F64  # |mean| / s
    inv: F64  # 1 / s
    scale: F64  # |scale|
    values: F64 | float  # of each channel, or per channel


class Bounds(NamedTuple):
    """The largest permitted distance from the reference, in the shape of the result or broadcasting to it."""

    y: F64
    x: F64
    scale: F64
    shift: F64
    residual: F64


def unit(dtype: torch.dtype) -> float:
    """Half the distance between 1 and the next number: the largest relative error of one rounding."""
    return float(torch.finfo(dtype).eps) / 2


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums are made."""
    return torch.promote_types(dtype, torch.float32)


def bounds(
    sizes: Sizes,
    dy: F64,
    gradients: Gradients,
    dtype: torch.dtype,
    *,
    parameters: torch.dtype,
    kept: torch.dtype | None,
    running: bool = False,
    by_batch: bool = True,
) -> Bounds:
    """The bounds for the output and for every gradient.

    Args:
        sizes: of the computation.
        dy: the gradient of the loss for y.
        gradients: by the reference.
        dtype: of x and y.
        parameters: of scale and shift and their gradients.
        kept: the dtype in which the mean is kept as a single number; None where nothing of it is lost.
        running: whether float32 sums run through all values one after the other.
        by_batch: whether the moments are the batch's own.
    """
    u, acc = unit(dtype), unit(wide(dtype))
    over = tuple(axis for axis in range(dy.ndim) if axis != 1)

    # the error of a normalized value, and of the value that enters the activation
    e = acc * (1 + np.abs(sizes.normalized)) + unit(torch.float64) * np.sqrt(sizes.values) * sizes.ratio
    if kept is not None:
        e = e + unit(kept) * sizes.ratio
        e = e + unit(kept) * np.abs(sizes.normalized)  # the spread is kept in it too
    if running:
        e = e + acc * np.sqrt(sizes.values) * (1 + sizes.ratio) * (1 + np.abs(sizes.normalized))
    rounded = u * (np.abs(sizes.linear) + np.abs(sizes.normalized * sizes.scale) + np.abs(sizes.residual))
    z = rounded + sizes.scale * e

    g = np.abs(dy)
    dg = g * (u + z)
    sum_g = g.sum(over, keepdims=True)
    dshift = dg.sum(over, keepdims=True) + unit(parameters) * sum_g
    products = (g * np.abs(sizes.normalized)).sum(over, keepdims=True)
    dscale = (dg * np.abs(sizes.normalized) + g * e).sum(over, keepdims=True) + (acc * 4 + unit(parameters)) * products
    dx = dg + g * e
    if by_batch:
        share_of_shift, share_of_scale = sum_g / sizes.values, products / sizes.values
        dx = (
            dx
            + dshift / sizes.values
            + dscale / sizes.values * np.abs(sizes.normalized)
            + share_of_scale * e
            + (u + acc) * (share_of_shift + share_of_scale * np.abs(sizes.normalized))
        )
    dx = dx * sizes.scale * sizes.inv + u * np.abs(gradients.x)
    floor = SMALLEST[dtype]
    return Bounds(*(SAFETY * bound + floor for bound in (z + u, dx, dscale.squeeze(over), dshift.squeeze(over), dg)))


def worst(found: torch.Tensor, expected: F64, bound: F64) -> float:
    """The largest distance in units of its bound: at most 1 where it holds, infinite where a result is NaN."""
    apart = np.abs(found.detach().double().numpy() - expected)
    share = np.where(apart == 0, 0.0, apart / np.maximum(bound, 1e-300))
    return float(np.where(np.isnan(share), np.inf, share).max(initial=0.0))
