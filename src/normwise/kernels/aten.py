"""PyTorch's own batch-norm operator behind the kernels' signature: the least overhead, and every device that torch has.

Differentiable, because torch's operators are. On the CPU its sums are plain float32 ones when the channels come last in
memory, which is wrong for many values; ``choose`` keeps such inputs away from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.kernels.recording import recording
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments


def forward_batch(
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Moments]:
    """``reference.forward_batch`` for (N, C, *spatial); the moments carry no gradient."""
    parameters = [tensor for tensor in (scale, shift) if tensor is not None]
    dtype = parameters[0].dtype if parameters else torch.promote_types(x.dtype, torch.float32)
    # With weight 1 for the new batch, the operator's own update hands out the batch's moments at no further pass.
    mean = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
    population_var = torch.zeros_like(mean)
    y = torch.nn.functional.batch_norm(
        with_plain_strides(x), mean, population_var, scale, shift, training=True, momentum=1.0, eps=eps
    )
    count = x.numel() // max(x.shape[1], 1)
    return activate(y, activation, residual), Moments.from_population_var(mean, population_var, count)


def forward_fixed(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``reference.forward_fixed`` for (N, C, *spatial); the statistics may change before the backward."""
    if torch.is_grad_enabled() and mean is not None and var is not None and not recording():
        mean, var = mean.clone(), var.clone()  # the operator would look at them again
    y = torch.nn.functional.batch_norm(with_plain_strides(x), mean, var, scale, shift, training=False, eps=eps)
    return activate(y, activation, residual)


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
