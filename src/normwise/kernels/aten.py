"""PyTorch's own batch-norm operator behind the kernels' signature: the least overhead, and every device that torch has.

Differentiable, because torch's operators are. Its variance on the CPU is a plain float32 running sum when the channels
are the last axis in memory, which is wrong for many values far from zero; ``choose`` keeps such inputs away from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    y = torch.nn.functional.batch_norm(x, mean, population_var, scale, shift, training=True, momentum=1.0, eps=eps)
    count = x.numel() // max(x.shape[1], 1)
    return activate(y, activation, residual), Moments.from_population_var(mean, population_var, count)


def forward_fixed(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``reference.forward_fixed`` for (N, C, *spatial)."""
    y = torch.nn.functional.batch_norm(x, mean, var, scale, shift, training=False, eps=eps)
    return activate(y, activation, residual)
