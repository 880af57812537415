"""The activations and their slopes, by the numbers of ``activation_numbers``; in float32.

None of them needs more than ``exp`` and ``erf``, which Triton has on every chip. ``SETTING`` is a number: the slope of
a leaky ReLU below 0, the alpha of an ELU.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(z):
    """The logistic function, by an exponential that cannot overflow."""
    e = tl.exp(-tl.abs(z))
    return tl.where(z >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def tanh(z):
    """The hyperbolic tangent, to within the rounding of 1."""
    e = tl.exp(-2.0 * tl.abs(z))
    size = (1.0 - e) / (1.0 + e)
    return tl.where(z >= 0, size, -size)


@triton.jit
def tanh_of_softplus(z):
    """``tanh(log(1 + exp(z)))``, a ratio of polynomials in the exponential."""
    e = tl.exp(-tl.abs(z))
    above = 1.0 + 2.0 * e
    below = e * (e + 2.0)
    return tl.where(z >= 0, above / (above + 2.0 * e * e), below / (below + 2.0))


@triton.jit
def normal_share(z):
    """The share of a normal distribution below z."""
    return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))


@triton.jit
def tanh_share(z):
    """What the approximation by a hyperbolic tangent takes for that share; beyond 40 it is 0 or 1."""
    near = tl.minimum(tl.maximum(z, -40.0), 40.0)
    return sigmoid(1.5957691216057308 * (near + 0.044715 * near * near * near))


@triton.jit
def activated(z, setting, ACTIVATION: tl.constexpr):
    """The activation's value."""
    if ACTIVATION == 0:
        found = z
    elif ACTIVATION == 1:
        found = tl.where(z > 0, z, tl.where(z == z, 0.0, z))  # a NaN stays one
    elif ACTIVATION == 2:
        found = tl.where(z > 0, z, setting * z)
    elif ACTIVATION == 3:
        found = tl.where(z > 0, tl.where(z < 6.0, z, 6.0), tl.where(z == z, 0.0, z))
    elif ACTIVATION == 4:
        found = z * tl.minimum(tl.maximum(z + 3.0, 0.0), 6.0) / 6.0
    elif ACTIVATION == 5:
        found = tl.where(z > 0, z, setting * (tl.exp(tl.minimum(z, 0.0)) - 1.0))
    elif ACTIVATION == 6:
        found = z * normal_share(z)
    elif ACTIVATION == 7:
        found = z * tanh_of_softplus(z)
    elif ACTIVATION == 8:
        found = sigmoid(z)
    elif ACTIVATION == 9:
        found = z * sigmoid(z)
    elif ACTIVATION == 10:
        found = tanh(z)
    elif ACTIVATION == 11:
        found = tl.minimum(tl.maximum(z + 3.0, 0.0), 6.0) / 6.0
    else:
        tl.static_assert(ACTIVATION == 12, "there is no such activation")
        found = z * tanh_share(z)
    return found


@triton.jit
def sloped(z, setting, ACTIVATION: tl.constexpr):
    """The activation's slope; at a kink, the one that PyTorch takes."""
    if ACTIVATION == 0:
        found = tl.full(z.shape, 1.0, tl.float32)
    elif ACTIVATION == 1:
        found = tl.where(z > 0, 1.0, 0.0)
    elif ACTIVATION == 2:
        found = tl.where(z > 0, 1.0, setting)
    elif ACTIVATION == 3:
        found = tl.where((z > 0) & (z < 6.0), 1.0, 0.0)
    elif ACTIVATION == 4:
        found = tl.where(z < -3.0, 0.0, tl.where(z <= 3.0, z / 3.0 + 0.5, 1.0))
    elif ACTIVATION == 5:
        found = tl.where(z > 0, 1.0, setting * tl.exp(tl.minimum(z, 0.0)))
    elif ACTIVATION == 6:
        near = tl.minimum(tl.maximum(z, -40.0), 40.0)
        found = normal_share(z) + z * tl.exp(-0.5 * near * near) * 0.3989422804014327
    elif ACTIVATION == 7:
        t = tanh_of_softplus(z)
        found = t + z * sigmoid(z) * (1.0 - t * t)
    elif ACTIVATION == 8:
        s = sigmoid(z)
        found = s * (1.0 - s)
    elif ACTIVATION == 9:
        s = sigmoid(z)
        found = s * (1.0 + z * (1.0 - s))
    elif ACTIVATION == 10:
        t = tanh(z)
        found = 1.0 - t * t
    elif ACTIVATION == 11:
        found = tl.where((z > -3.0) & (z < 3.0), 0.16666666666666666, 0.0)
    else:
        tl.static_assert(ACTIVATION == 12, "there is no such activation")
        near = tl.minimum(tl.maximum(z, -40.0), 40.0)
        share = tanh_share(near)
        found = share + near * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * near * near)
    return found


@triton.jit
def tells_slope(z, ACTIVATION: tl.constexpr):
    """The one bit that tells the slope of a ReLU, a leaky one or ReLU6."""
    if ACTIVATION == 3:
        found = (z > 0) & (z < 6.0)
    else:
        found = z > 0
    return found


@triton.jit
def slope_of_bit(bit, setting, ACTIVATION: tl.constexpr):
    """The slope that such a bit tells."""
    if ACTIVATION == 2:
        found = tl.where(bit, 1.0, setting)
    else:
        found = tl.where(bit, 1.0, 0.0)
    return found
