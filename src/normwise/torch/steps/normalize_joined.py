r"""A part of a batch, normalized by the moments of the whole batch, whose other parts are in other processes.

The output is that of normalizing by running statistics, so any kernel for that serves. Its gradient takes the moments
for constants; what is missing, that they move with every value, needs two sums over all processes,

.. math:: S_1 = \sum_i g_i, \quad S_2 = \sum_i g_i \hat x_i, \quad
    \frac{\partial L}{\partial x_i} = \frac{\gamma}{\sigma} \Big(g_i - w_i \frac{S_1 + \hat x_i S_2}{n}\Big)

with :math:`g` the gradient behind scale and shift, and :math:`w_i` how much a value counts. A process's own part of
them is what the same kernel gives as gradients of shift and scale. So they are taken from there, added up, and the
second term is :math:`\hat x` with another scale and shift: once more the kernel for running statistics, with the first
term as its residual.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.kernels.internals import DelayedError
from normwise.kernels.kernel import Call, Kernel
from normwise.kernels.two_pass import TWO_PASS
from normwise.moments import Moments
from normwise.torch.steps.call import CPU, TRITON
from normwise.torch.steps.gather_peers import Peers

_REFUSED = (
    b"SyncBatchNorm has first derivatives only, and its gradient was to be differentiated (create_graph=True): let "
    b"such a loss see the whole batch in one process, with a BatchNorm."
)


class Joined(NamedTuple):
    """The statistics by which all parts are normalized, shape (C,) and float64, the same in all processes."""

    mean: Tensor
    var: Tensor
    share: Tensor  # of one value in the moments, 1/n; 0 for a channel that is normalized by what does not depend on x


def join(call: Call, kernel: Kernel, peers: Peers) -> Moments:
    """The moments of all processes' values together, in float64, ``count`` of shape (C,)."""
    x = call.x
    if x.numel() == 0:
        nothing = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        return peers.gathered(Moments(nothing, nothing, 0)).merged()
    return peers.gathered(kernel.moments(call)).merged()


def normalize_by_joined(call: Call, joined: Joined, *, kernel: Kernel, peers: Peers) -> Tensor:
    """This process's part of the output; its gradient is that of all parts' losses together."""
    x, weights, eps = call.x, call.weights, call.eps
    wide = torch.float64 if kernel is CPU or kernel is TRITON else torch.promote_types(x.dtype, torch.float32)
    mean, var = joined.mean.to(wide), joined.var.to(wide)
    # What the mean loses in the kernel's dtype goes into the shift.
    lost = ((mean.double() - joined.mean) * torch.rsqrt(joined.var + eps)).to(wide)
    x, scale, shift = _Joint.apply(
        x, call.scale, call.shift, mean, var, lost, joined.share, weights, eps, kernel, peers
    )
    return kernel.forward_running(call._replace(x=x, mean=mean, var=var, scale=scale, shift=shift))


class _Joint(torch.autograd.Function):
    """x, scale and shift as they are; in the backward their gradients by fixed moments become those by joint ones."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        mean: Tensor,
        var: Tensor,
        lost: Tensor,
        share: Tensor,
        weights: Tensor | None,
        eps: float,
        kernel: Kernel,
        peers: Peers,
    ) -> tuple[Tensor, Tensor, Tensor]:
        used_scale = torch.ones_like(mean) if scale is None else scale.to(mean.dtype, copy=True)
        used_shift = lost * used_scale if shift is None else lost * used_scale + shift
        ctx.save_for_backward(x, used_scale, mean, var, lost, share, weights)
        ctx.eps, ctx.kernel, ctx.peers = eps, kernel, peers
        same = x.view_as(x)
        if not ctx.needs_input_grad[0]:
            ctx.mark_non_differentiable(same)
        return same, used_scale, used_shift

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """One collective call, of every process whose x is to have a gradient, an empty x too."""
        with torch.no_grad():
            dx, dscale, dshift = gradients
            x, scale, mean, var, lost, share, weights = ctx.saved_tensors
            dscale = dscale + lost * dshift
            found: list[Tensor | None] = [None, dscale, dshift]
            if ctx.needs_input_grad[0]:
                of_shift, of_scale = ctx.peers.summed(torch.stack((dshift, dscale)))
                by_value = -scale * torch.rsqrt(var.double() + ctx.eps) * share
                moved_by_x = (by_value * of_scale).to(mean.dtype)
                moved = (by_value * (of_shift + lost * of_scale)).to(mean.dtype)
                missing = Call(x, weights, mean, var, moved_by_x, moved, ctx.eps, None, dx)
                found[0] = dx if x.numel() == 0 else _added(missing, ctx.kernel)
        given = [gradient if needed else None for gradient, needed in zip(found, ctx.needs_input_grad[:3], strict=True)]
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            given = _refusing(given)
        return (*given, *[None] * 8)


def _added(call: Call, kernel: Kernel) -> Tensor:
    """The residual and what normalizing x with this scale and shift gives, where x counts, as much as it counts."""
    weights, dx = call.weights, call.residual
    if weights is not None and weights.is_floating_point():
        assert dx is not None
        return dx + (TWO_PASS.forward_running(call._replace(residual=None)) * weights).to(dx.dtype)
    return kernel.forward_running(call)


def _refusing(gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The same, but to differentiate them is an error."""
    there = [gradient for gradient in gradients if gradient is not None]
    marked: list[Tensor] = [gradient.detach().requires_grad_() for gradient in there]
    refusing = iter(DelayedError(_REFUSED, len(marked))(*marked)) if marked else iter(())
    return [None if gradient is None else next(refusing) for gradient in gradients]
