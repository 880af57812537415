"""PyTorch's own batch-norm operator behind the kernels' signature: the least overhead, and every device that torch has.

Differentiable, because torch's operators are. On the CPU its sums are plain float32 ones when the channels come last in
memory, which is wrong for many values; ``choose`` keeps such inputs away from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.kernels.kernel import Call
from normwise.kernels.recording import recording
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments


class Aten:
    """The kernel that is PyTorch's own operator."""

    name = "aten"

    def forward_batch(self, call: Call) -> tuple[Tensor, Moments]:
        """Normalize with the batch's own statistics by PyTorch's operator; returns these too, without a gradient."""
        x = call.x
        parameters = [tensor for tensor in (call.scale, call.shift) if tensor is not None]
        dtype = parameters[0].dtype if parameters else torch.promote_types(x.dtype, torch.float32)
        # With weight 1 for the new batch, the operator's own update hands out the batch's moments at no further pass.
        mean = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
        unbiased_var = torch.zeros_like(mean)
        y = torch.nn.functional.batch_norm(
            with_plain_strides(x), mean, unbiased_var, call.scale, call.shift, training=True, momentum=1.0, eps=call.eps
        )
        moments = Moments.from_unbiased_var(mean, unbiased_var, x.numel() // max(x.shape[1], 1))
        return activate(self.differentiable(y), call.activation, call.residual), moments

    def differentiable(self, y: Tensor) -> Tensor:
        """The operator's output in training; its third derivative is PyTorch's until ``torch/`` puts it right."""
        return y

    def forward_running(self, call: Call) -> Tensor:
        """Normalize with running statistics by PyTorch's operator, with copies of them where a backward may follow."""
        mean, var = call.mean, call.var
        if torch.is_grad_enabled() and mean is not None and var is not None and not recording():
            mean, var = mean.clone(), var.clone()  # the operator would look at them again
        y = torch.nn.functional.batch_norm(
            with_plain_strides(call.x), mean, var, call.scale, call.shift, training=False, eps=call.eps
        )
        return y if call.activation is None and call.residual is None else activate(y, call.activation, call.residual)

    @torch.no_grad()
    def moments(self, call: Call) -> Moments:
        """The batch's statistics alone, without a gradient, in float32 or wider."""
        x = call.x.detach()  # what records the call records no grad mode
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        axes, count = [axis for axis in range(x.dim()) if axis != 1], x.numel() // max(x.shape[1], 1)
        if count < 2:
            mean = x.sum(axes)
            return Moments(mean, torch.zeros_like(mean), count)
        unbiased_var, mean = torch.var_mean(x, axes)
        return Moments.from_unbiased_var(mean, unbiased_var, count)


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format of PyTorch's output for this input, which need not be dense.

    It is channels last where the strides say so from the innermost axis outwards, and contiguous in all other cases.
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    if last is torch.contiguous_format or x.is_contiguous() or x.stride(1) == 0:
        return torch.contiguous_format
    least = 0
    for axis in (1, *range(x.dim() - 1, 1, -1), 0):
        size, stride = x.shape[axis], x.stride(axis)
        if size == 0 or stride < least or (axis == 0 and least == x.stride(1)):
            return torch.contiguous_format
        least = stride * max(size, 1)
    return last


def with_plain_strides(x: Tensor) -> Tensor:
    """The same values, where an axis of size 1 has the stride that its place in memory gives it.

    Of a dense tensor with another stride there (an image read as (H, W, C), permuted and unsqueezed, is one), PyTorch's
    backward on the CPU mixes up the axes.
    """
    if x.dim() < 3 or x.is_contiguous() or recording() or 1 not in x.shape:
        return x
    last = x.movedim(1, -1)
    return last.reshape(-1, x.shape[1]).view(last.shape).movedim(-1, 1) if last.is_contiguous() else x
