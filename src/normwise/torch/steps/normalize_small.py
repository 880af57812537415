"""A small plain tensor: PyTorch's operator at once, for a Python call more costs a tenth of it.

Nothing is decided here that ``steps/call.py`` would decide otherwise: what is not as plain as can be gets None, and
goes the general way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.kernels import choose, cpu
from normwise.kernels.choose import FEW_VALUES, SMALL, SMALL_LAST
from normwise.kernels.internals import (
    BEFORE_DISPATCH,
    innermost_transform,
    is_key_included,
    jit_trace,
    listening_modes,
    running_backward,
)
from normwise.torch.steps.any_order import derivatives_of_any_order
from normwise.torch.steps.buffers import NARROW
from normwise.torch.steps.estimate import count_batch

# By their names alone: a look into a module is one of the things that add up here.
_FLOAT32, _FLOAT64, _INT64, _STRIDED = torch.float32, torch.float64, torch.int64, torch.strided
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_is_grad_enabled, _operator = torch.is_grad_enabled, torch.native_batch_norm


def normalize_small(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    momentum: float | None,
    updates: Tensor | None,
    skipped: Tensor | None,
    training: bool,
) -> Tensor | None:
    """The output before the activation, in training with the batch in the running statistics; None if not plain.

    Plain are tensors in memory on the CPU, small and contiguous, or images and volumes with the channels last, with
    statistics that are kept and parameters of their dtype, where nothing records, transforms or listens; in training,
    where no backward runs the forward again; in inference, where no gradient is wanted.

    Args:
        x: (N, C, *spatial).
        mean: the running mean.
        var: the running variance.
        scale: gamma.
        shift: beta.
        eps: added to the variance.
        momentum: weight of the new batch.
        updates: counts the batches that entered.
        skipped: counts those that did not in some channel, or None.
        training: whether to normalize by the batch.

    The caller knows that ``torch.compile`` does not look on, which sees no further than a question of this kind.
    """
    if choose._ASKED or cpu.library is None or x.layout is not _STRIDED or x.is_nested:
        return None
    if mean is None or var is None or updates is None or x.dim() < 2:
        return None
    channels, size, dtype = x.size(1), x.numel(), mean.dtype
    last = x.stride(1) == 1 and channels > 1
    if not (
        type(x) is type(mean) is type(var) is type(updates) is Tensor
        and (dtype is _FLOAT32 or dtype is _FLOAT64)
        and dtype is var.dtype
        and (x.dtype is dtype or (dtype is _FLOAT32 and x.dtype in NARROW))
        and x.is_cpu
        and mean.is_cpu
        and var.is_cpu
        and 0 < size < (SMALL_LAST if last else SMALL)
        and (x.is_contiguous() or (last and _with_channels_last(x)))
        and mean.is_contiguous()
        and var.is_contiguous()
        and mean.dim() == var.dim() == 1
        and mean.numel() == var.numel() == channels
        and (scale is None or (scale.dtype is dtype and scale.dim() == 1 and scale.numel() == channels))
        and (shift is None or (shift.dtype is dtype and shift.dim() == 1 and shift.numel() == channels))
        and eps > 0
        and listening_modes() == 0
        and jit_trace() is None
        and innermost_transform() is None
        and not is_key_included(BEFORE_DISPATCH)
    ):
        return None
    if not training:
        return None if _is_grad_enabled() else _operator(x, scale, shift, mean, var, False, 0.0, eps)[0]
    if not (
        size > channels
        # where channels are the last axis in memory, sums of many values lose digits
        and (size <= FEW_VALUES * channels or not last)
        and type(momentum) is float
        and updates.dtype is _INT64
        and updates.is_cpu
        and (skipped is None or skipped.is_cpu)
        and running_backward() == -1
    ):
        return None
    plain = mean.data_ptr(), var.data_ptr(), channels, dtype is _FLOAT64
    cpu.library.remember(*plain)
    y: Tensor = _operator(x, scale, shift, mean, var, True, momentum, eps)[0]
    left_out: int = cpu.library.restore_if_not_finite(*plain, updates.data_ptr())
    if left_out:
        count_batch(None, skipped, left_out, channels)
    return derivatives_of_any_order(y)


def _with_channels_last(x: Tensor) -> bool:
    """True if the channels of this dense tensor come last, in strides that PyTorch's backward does not mix up."""
    form = _LAST.get(x.dim())
    # The stride of an axis of size 1 is not asked for there: see ``aten.with_plain_strides``.
    plain = 1 not in x.shape[2:] and x.stride(0) * x.size(0) == x.numel()
    return plain and form is not None and x.is_contiguous(memory_format=form)
