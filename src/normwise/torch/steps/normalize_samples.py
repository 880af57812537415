"""The shared part of group, layer and instance norm: moments of parts of a sample, as those of channels of one sample.

A set of values that has its own moments is a row: (N, C, *spatial) with G groups is seen as (1, N * G, values), which
every kernel of batch norm takes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.kernels import aten
from normwise.kernels.kernel import Call
from normwise.kernels.torch_activations import activate
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch.steps.call import KERNELS


def rows_normalized(x: Tensor, rows: int, eps: float, mask: Tensor | None, *, kernel: str) -> Tensor:
    """Each row about its mean in its standard deviations, in the dtype of the sums and the shape of x.

    Args:
        x: values; the rows are consecutive in their order.
        rows: how many.
        eps: added to the variance.
        mask: True where a value counts; broadcasts to x.
        kernel: ``cpu`` or ``two_pass``.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(1, rows, x.numel() // max(rows, 1))
    if mask is not None:
        # Without the refusal of single values: a short sequence is no reason to refuse the others of its batch.
        y, _ = TWO_PASS.forward_batch(Call(wide, mask.expand(x.shape).reshape(wide.shape), eps=eps))
    else:
        y, _ = KERNELS[kernel].forward_batch(Call(wide, eps=eps))
    return y.reshape(x.shape)


def finished(
    normalized: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Scaled, shifted, added to and activated, blank where the mask is False, in the dtype and memory format of x.

    Args:
        normalized: from ``rows_normalized``.
        x: what was normalized.
        weight: broadcasts to x, or None.
        bias: broadcasts to x, or None.
        activation: a name, or None.
        residual: the shape of x, or None.
        mask: broadcasts to x, or None.
    """
    y = normalized
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    y = y.to(x.dtype, copy=y is normalized)
    if mask is not None and residual is not None:
        residual = residual.masked_fill(~mask, 0)  # a NaN in the padding has no slope to meet
    y = activate(y, activation, residual)
    if mask is not None:
        y = y.masked_fill(~mask, 0)
    return y.contiguous(memory_format=aten.memory_format(x))
