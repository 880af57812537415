"""PyTorch's operator, in training: it updates the running statistics in the same call, and has right derivatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.kernels import aten, cpu
from normwise.kernels.aten import Aten
from normwise.kernels.internals import running_backward
from normwise.kernels.kernel import Call
from normwise.torch.steps.any_order import derivatives_of_any_order
from normwise.torch.steps.estimate import address_of_counter, addresses, count_batch
from normwise.torch.steps.estimate_finite import all_finite, take_finite


def normalize_and_update_by_aten(call: Call, momentum: float, updates: Tensor | None, skipped: Tensor | None) -> Tensor:
    """The operator's output, before the residual and the activation; the batch enters the running statistics.

    What it must not do to them is undone (``estimate_finite``), or done to copies (``estimate_recomputation``).

    Args:
        call: checked.
        momentum: weight of the new batch.
        updates: int64, counts the batches that entered, or None.
        skipped: int64, counts those that did not in some channel, or None.
    """
    x, _, running_mean, running_var, scale, shift, eps, _, _ = call
    x = x if x.is_contiguous() else aten.with_plain_strides(x)
    if not isinstance(running_mean, Tensor) or not isinstance(running_var, Tensor):
        return differentiable(F.batch_norm(x, running_mean, running_var, scale, shift, True, momentum, eps))
    again = not torch.compiler.is_compiling() and running_backward() != -1  # ``recomputing``
    plain = None if again or running_mean.dim() != 1 else addresses(running_mean, running_var)
    if plain is None:
        mean, var = running_mean.clone(), running_var.clone()
        y = F.batch_norm(x, mean, var, scale, shift, True, momentum, eps)
        if not again:
            take_finite((mean, var), (running_mean, running_var), (running_mean, running_var), updates, skipped)
        return differentiable(y)
    if cpu.library is not None:
        cpu.library.remember(*plain)
        y = _operator(x, call, running_mean, running_var, momentum)
        counter = address_of_counter(updates)
        left_out = cpu.library.restore_if_not_finite(*plain, counter)
        if left_out or not counter:
            count_batch(None if counter else updates, skipped, left_out, plain[2])
        return differentiable(y)
    before = torch.cat((running_mean, running_var))
    y = _operator(x, call, running_mean, running_var, momentum)
    if all_finite(running_mean, running_var):
        count_batch(updates, skipped, 0, plain[2])
    else:
        found = running_mean.clone(), running_var.clone()
        take_finite(found, before.chunk(2), (running_mean, running_var), updates, skipped)
    return differentiable(y)


def _operator(x: Tensor, call: Call, mean: Tensor, var: Tensor, momentum: float) -> Tensor:
    """The operator itself where nothing is left that ``F.batch_norm`` would see to."""
    scale, shift, eps = call.scale, call.shift, call.eps
    if x.dim() > 1 and x.numel() > x.shape[1] and eps > 0:
        return torch.batch_norm(x, scale, shift, mean, var, True, momentum, eps, torch.backends.cudnn.enabled)
    return F.batch_norm(x, mean, var, scale, shift, True, momentum, eps)


def differentiable(y: Tensor) -> Tensor:
    """``y`` itself, an output of PyTorch's batch norm in training, now with right derivatives of every order."""
    # Compiled graphs have first derivatives only.
    return y if torch.compiler.is_compiling() else derivatives_of_any_order(y)


class AtenAtAnyOrder(Aten):
    """PyTorch's operator with right derivatives of every order."""

    def differentiable(self, y: Tensor) -> Tensor:
        """The output with right derivatives of every order, by the function of this name."""
        return differentiable(y)
