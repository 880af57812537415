"""Batch norm from plain PyTorch operations: exact in every layout and at any mean, with any mask or weights.

The mean is taken first and the squares are summed about it, so nothing cancels. The mean's own rounding error, which
costs a few digits of x where the mean is large, is measured in the second pass and put right (``low``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normwise.kernels.aten import memory_format
from normwise.kernels.kernel import Call
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments


class Gathered(NamedTuple):
    """The first step's outcome: x about its mean, what the mean's rounding left over, and the moments."""

    centred: Tensor  # x - mean in the accumulation dtype, the shape of x
    low: Tensor  # mean of centred, the keepdim shape (1, C, 1, ...)
    mean: Tensor  # keepdim shape
    var: Tensor  # keepdim shape
    number: int | Tensor  # of values, or the sum of their weights: shape () where all channels share it, else (C,)

    def moments(self) -> Moments:
        """Shape (C,), without a gradient."""
        number = self.number.detach() if isinstance(self.number, Tensor) else self.number
        return Moments((self.mean + self.low).detach().flatten(), self.var.detach().flatten(), number)


def gather(x: Tensor, mask: Tensor | None = None) -> Gathered:
    """The moments of (N, C, *spatial) over all axes but the second, and x about its mean.

    Args:
        x: values; float16 and bfloat16 are gathered in float32.
        mask: (N, C, *spatial) or 1 in place of any of these. Boolean, values where it is False do not count; or
            floating, how much each value counts, 0 or more.
    """
    over = [axis for axis in range(x.dim()) if axis != 1]
    wide = torch.promote_types(x.dtype, torch.float32)
    if mask is None:
        number: int | Tensor = x.numel() // max(x.shape[1], 1)
        mean = x.mean(over, keepdim=True, dtype=wide)
        centred = x - mean
        low = centred.mean(over, keepdim=True)
        var = centred.square().mean(over, keepdim=True)
    else:
        # In float64, wherever the device has it: integers of tensors divide in float32.
        counting = torch.float32 if x.device.type == "mps" else torch.float64
        per_channel = x.numel() // max(x.shape[1], 1)
        count = mask.sum(over, keepdim=True, dtype=counting)
        count = count * (per_channel // max(mask.numel() // max(mask.shape[1], 1), 1))
        nothing = count == 0
        share = (~nothing / (count + nothing)).to(wide)
        outside, weights = blank(mask), None if mask.dtype == torch.bool else mask.to(wide)
        inside = x.to(wide).masked_fill(outside, 0)  # a NaN in the padding stays there
        mean = _weighted(inside, weights).sum(over, keepdim=True) * share
        centred = (inside - mean).masked_fill(outside, 0)
        low = _weighted(centred, weights).sum(over, keepdim=True) * share
        var = _weighted(centred.square(), weights).sum(over, keepdim=True) * share
        number = count.sum() if mask.shape[1] == 1 else count.flatten()
    # About a rounded mean the squares are too large by low^2; a constant channel must come out as 0, never below.
    return Gathered(centred, low, mean, (var - low.square()).clamp(min=0), number)


def blank(mask: Tensor) -> Tensor:
    """True where values do not count at all."""
    return ~mask if mask.dtype == torch.bool else mask == 0


def _weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    return values if weights is None else values * weights


def normalize(gathered: Gathered, call: Call) -> Tensor:
    """The step after ``gather``: normalization with the moments that it found, through which the gradient flows."""
    along = gathered.mean.shape
    factor = torch.rsqrt(gathered.var + call.eps)
    if call.scale is not None:
        factor = factor * call.scale.view(along)
    offset = -gathered.low * factor
    if call.shift is not None:
        offset = offset + call.shift.view(along)
    y = torch.addcmul(offset, gathered.centred, factor).to(call.x.dtype)
    return _finish(y, call.x, call.activation, call.residual, call.weights)


def forward_groups(call: Call, groups: int) -> Tensor:
    """Group norm of (N, C, *spatial): in every sample each of so many groups of channels by its own moments.

    Args:
        call: without weights; the running statistics do not count.
        groups: how many groups, a divisor of C.
    """
    x = call.x
    rows = x.reshape(1, x.shape[0] * groups, -1)
    gathered = gather(rows)
    factor = torch.rsqrt(gathered.var + call.eps)
    y = torch.addcmul(-gathered.low * factor, gathered.centred, factor).view(x.shape)
    along = (1, -1, *[1] * (x.dim() - 2))
    y = y if call.scale is None else y * call.scale.view(along)
    y = y if call.shift is None else y + call.shift.view(along)
    return _finish(y.to(x.dtype), x, call.activation, call.residual, None)


def _finish(y: Tensor, x: Tensor, activation: str | None, residual: Tensor | None, mask: Tensor | None) -> Tensor:
    """Add, activate, blank what is masked; in the memory format that PyTorch's operator would give."""
    if mask is not None and residual is not None:
        residual = residual.masked_fill(blank(mask), 0)  # a NaN in the padding has no slope to meet
    y = activate(y, activation, residual)
    if mask is not None:
        y = y.masked_fill(blank(mask), 0)
    return y.contiguous(memory_format=memory_format(x))


class TwoPass:
    """The kernel made of plain PyTorch operations: for every device, every mask, and all that ``torch.func`` does."""

    name = "two_pass"

    def forward_batch(self, call: Call) -> tuple[Tensor, Moments]:
        """Normalize with the batch's own statistics, differentiable to any order; gives these too, without gradient."""
        gathered = gather(call.x, call.weights)
        return normalize(gathered, call), gathered.moments()

    def forward_running(self, call: Call) -> Tensor:
        """Normalize with running statistics; differentiable to any order."""
        x, mask = call.x, call.weights
        assert call.mean is not None
        assert call.var is not None
        along = (1, -1, *[1] * (x.dim() - 2))
        wide = torch.promote_types(x.dtype, torch.float32)
        inside = x.to(wide) if mask is None else x.to(wide).masked_fill(blank(mask), 0)
        factor = torch.rsqrt(call.var.to(wide) + call.eps).view(along)
        if call.scale is not None:
            factor = factor * call.scale.view(along)
        y = (inside - call.mean.to(wide).view(along)) * factor
        if call.shift is not None:
            y = y + call.shift.view(along)
        return _finish(y.to(x.dtype), x, call.activation, call.residual, mask)

    @torch.no_grad()
    def moments(self, call: Call) -> Moments:
        """The batch's statistics alone, without a gradient; the mean in float64, wherever the device has it."""
        found = gather(call.x.detach(), call.weights)  # what records the call records no grad mode
        mean = found.mean if call.x.device.type == "mps" else found.mean.double()
        return Moments((mean + found.low).flatten(), found.var.flatten(), found.number)


TWO_PASS = TwoPass()
