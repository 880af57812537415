"""The two-pass kernel with its gradient: keeps x and four numbers per channel, and works in one scratch tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.kernels import two_pass


class TwoPassBatchNorm(torch.autograd.Function):
    """Batch norm by the batch's own moments: ``apply(x, scale, shift, eps) -> (y, mean, var, ...)``.

    The moments carry no gradient; what follows them is for the backward.
    The first derivative is the formula of ``reference.backward_batch``. Where a graph of it is asked for, the forward
    is redone from elementary operations and differentiated, so that every higher derivative is right too.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        """Normalize in place of the centred values."""
        centred, low, mean, var, _ = two_pass.gather(x)
        inv = torch.rsqrt(var + eps)
        factor = inv if scale is None else inv * scale.view(inv.shape)
        offset = -low * factor
        if shift is not None:
            offset = offset + shift.view(inv.shape)
        y = centred.mul_(factor).add_(offset).to(x.dtype)
        return y, (mean + low).flatten(), var.flatten(), mean, low, inv

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep x itself; never a live buffer."""
        x, scale, shift, eps = inputs
        ctx.eps = eps
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, scale, shift, *output[3:])

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """The gradients for x, scale and shift, as far as they are needed."""
        x, scale, shift, mean, low, inv = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            y = two_pass.forward_batch(x, scale, shift, ctx.eps)[0]
            inputs = [tensor for tensor, wanted in zip((x, scale, shift), needed, strict=True) if wanted]
            found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
            return (*(next(found) if wanted else None for wanted in needed), None)

        over = [axis for axis in range(x.dim()) if axis != 1]
        centred = x - mean
        dshift = dy.sum(over, keepdim=True, dtype=mean.dtype)
        dscale = (torch.mul(dy, centred).sum(over, keepdim=True, dtype=mean.dtype) - low * dshift) * inv
        dx = None
        if needed[0]:
            count = x.numel() // max(x.shape[1], 1)
            factor = inv if scale is None else inv * scale.view(inv.shape)
            slope = -inv * dscale * factor / count
            offset = -dshift * factor / count - low * slope
            dx = centred.mul_(slope).add_(offset).addcmul_(dy.to(mean.dtype), factor).to(x.dtype)
        return (
            dx,
            dscale.flatten().to(scale.dtype) if needed[1] else None,
            dshift.flatten().to(shift.dtype) if needed[2] else None,
            None,
        )
