"""Gather, normalize and activate on tensors, by the kernel that was chosen."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.errors import KernelUnavailable
from normwise.kernels import any_order, aten, cpu, cpu_statistics, two_pass
from normwise.kernels.choose import MASKED, VARIABLE, Choice, choose
from normwise.kernels.recording import recording
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments
from normwise.torch import operators
from normwise.torch.buffers import readable, transformed
from normwise.torch.finite import all_finite, count_batch, take_finite
from normwise.torch.mask_checks import check_masked_count
from normwise.torch.recomputation import recomputing


def choice_for(input: Tensor, *, by_batch: bool, mask: Tensor | None) -> Choice:
    """The kernel for this call, and why."""
    recorded = recording()
    compiling = recorded and torch.compiler.is_compiling()
    choice = choose(
        input,
        by_batch=by_batch,
        masked=mask is not None,
        compiling=compiling,
        recorded=recorded and not compiling,
        transformed=transformed(),
    )
    if mask is None or choice.name == "two_pass" or (mask.dtype is torch.bool and mask.shape[1] == 1):
        return choice
    if choice is not MASKED:
        raise KernelUnavailable(
            f"{VARIABLE}={choice.name} asks for kernels that know masks which all channels share, and sample weights "
            f"or a mask for each channel were received: unset {VARIABLE} or set it to two_pass."
        )
    return Choice("two_pass", "there are weights or a mask for each channel, which the elementary operations know")


@torch.no_grad()
def moments_of(input: Tensor, mask: Tensor | None, *, kernel: str) -> Moments:
    """The moments alone, float64 as far as the kernel has it, of any number of values: 0 and 0 where there are none."""
    input = input.detach()  # what records the call records no grad mode
    if input.numel() == 0:
        nothing = torch.zeros(input.shape[1], dtype=torch.float64, device=input.device)
        return Moments(nothing, nothing, 0)
    if kernel == "cpu":
        # No pass of theirs gathers only, but with an output to drop they take a tenth of var_mean's time or less.
        _, mean, var, _ = _compiled(input, None, mask, None, None, None, None, 1.0, None)
        return Moments(mean, var, _count(input, mask))
    if kernel == "aten":
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes, count = [axis for axis in range(x.dim()) if axis != 1], _count(x, None)
        if count == 1:
            return Moments(x.sum(axes), torch.zeros_like(x.sum(axes)), count)
        population_var, mean = torch.var_mean(x, axes)
        return Moments.from_population_var(mean, population_var, count)
    found = two_pass.gather(input, mask)
    return Moments((found.mean.double() + found.low).flatten(), found.var.flatten(), found.number)


def normalize_by_batch(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
    *,
    kernel: str,
) -> tuple[Tensor, Moments]:
    """The output, and the moments of the batch without a gradient; the arguments are checked already."""
    if mask is not None:
        check_masked_count(mask, input)
    if kernel == "two_pass":
        return two_pass.forward_batch(input, weight, bias, eps, activation=activation, residual=residual, mask=mask)
    if kernel == "aten":
        y, batch = aten.forward_batch(input, weight, bias, eps)
        return activate(_at_any_order(y), activation, residual), batch
    y, mean, var, _ = _compiled(input, residual, mask, weight, bias, None, None, eps, activation)
    return y, Moments(mean, var, _count(input, mask))


def normalize_and_move(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    updates: Tensor | None = None,
    skipped: Tensor | None = None,
) -> Tensor:
    """``F.batch_norm`` in training, by PyTorch's operator, which moves the running statistics in the same call.

    What it must not do to them is undone (``finite``), or done to copies (``recomputation``). For small tensors every
    operation here counts: a Python call costs a tenth of the operator.

    Args:
        input: (N, C, *spatial).
        running_mean: shape (C,), or None.
        running_var: shape (C,), or None.
        weight: shape (C,), or None.
        bias: shape (C,), or None.
        momentum: weight of the new batch.
        eps: added to the variance.
        updates: int64, how many batches entered, or None where nobody counts.
        skipped: int64, how many did not in some channel, or None.
    """
    x = aten.with_plain_strides(input)
    if not isinstance(running_mean, Tensor) or not isinstance(running_var, Tensor):
        return _at_any_order(F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps))
    again = recomputing()
    if again or not readable(running_var) or not running_mean.dim() == running_var.dim() == 1:
        mean, var = running_mean.clone(), running_var.clone()
        y = F.batch_norm(x, mean, var, weight, bias, True, momentum, eps)
        if not again:
            take_finite((mean, var), (running_mean, running_var), (running_mean, running_var), updates, skipped)
        return _at_any_order(y)
    remembered = cpu_statistics.remember(running_mean, running_var)
    before = torch.cat((running_mean, running_var)) if remembered is None else None
    if x.dim() > 1 and x.numel() > x.shape[1] and eps > 0:  # what F.batch_norm would see to
        enabled = torch.backends.cudnn.enabled
        y = torch.batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps, enabled)
    else:
        y = F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
    if remembered is not None:
        count_batch(updates, skipped, cpu_statistics.restore_if_not_finite(remembered), running_var.numel())
    elif all_finite(running_mean, running_var):
        count_batch(updates, skipped, 0, running_var.numel())
    else:
        assert before is not None
        found = running_mean.clone(), running_var.clone()
        take_finite(found, before.chunk(2), (running_mean, running_var), updates, skipped)
    return any_order.differentiable(y)


def _at_any_order(y: Tensor) -> Tensor:
    """The operator's output with right derivatives of third and higher order; compiled graphs have first ones only."""
    return y if torch.compiler.is_compiling() else any_order.differentiable(y)


def normalize_by_fixed(
    input: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
    *,
    kernel: str,
) -> Tensor:
    """The output by given statistics, which may change before the backward; the arguments are checked already."""
    if kernel == "aten":
        return aten.forward_fixed(input, mean, var, weight, bias, eps, activation=activation, residual=residual)
    assert mean is not None  # is_plain says so
    assert var is not None
    if kernel == "cpu":
        return _compiled(input, residual, mask, weight, bias, mean, var, eps, activation).y
    return two_pass.forward_fixed(
        input, mean, var, weight, bias, eps, activation=activation, residual=residual, mask=mask
    )


def normalize_by_groups(
    input: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """Group norm by the compiled kernels; the input is contiguous, and the arguments are checked already."""
    return _compiled(input, residual, None, weight, bias, None, None, eps, activation, groups).y


def _count(input: Tensor, mask: Tensor | None) -> int:
    """How many values per channel count."""
    values = input.numel() // max(input.shape[1], 1)
    return values if mask is None else int(mask.sum()) * (values // max(mask.numel(), 1))


def _compiled(
    input: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: str | None,
    groups: int = 0,
) -> cpu.Forward:
    """The compiled kernels on any strides; what is not dense is made so first, as PyTorch's operator does."""
    x = aten.with_plain_strides(input)
    x = x if cpu.serves(x) else x.contiguous(memory_format=aten.memory_format(x))
    learning = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (input, residual, weight, bias)
    )
    keep_bits = learning and residual is not None and activation in cpu.ONE_BIT
    inputs = (x, residual, mask, weight, bias, mean, var, eps)
    if learning:
        number = cpu.ACTIVATIONS[activation]
        return cpu.Forward(*operators.apply_compiled(*inputs, number, keep_bits, groups))
    with torch._C._AutoDispatchBelowAutograd():
        return cpu.forward(*inputs, activation, keep_bits, groups)
