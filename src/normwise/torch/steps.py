"""The steps of a layer on tensors: normalize by the kernel that was chosen, and estimate in place."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.estimators.ema import Ema
from normwise.estimators.estimator import Estimator, RunningStatistics
from normwise.kernels import aten, cpu, two_pass
from normwise.kernels.choose import Choice, built, choose
from normwise.moments import Moments
from normwise.torch import operators
from normwise.torch.checks import check_masked_count


def transformed() -> bool:
    """Whether ``torch.func`` (vmap, grad, jvp, ...) is transforming what runs now."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def choice_for(input: Tensor, *, by_batch: bool, mask: Tensor | None) -> Choice:
    """The kernel for this call, and why."""
    return choose(
        input,
        by_batch=by_batch,
        masked=mask is not None,
        compiling=torch.compiler.is_compiling(),
        transformed=transformed(),
    )


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
        return aten.forward_batch(input, weight, bias, eps, activation=activation, residual=residual)
    y, mean, var, _ = _compiled(input, residual, mask, weight, bias, None, None, eps, activation)
    return y, Moments(mean, var, _count(input, mask))


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
        return cpu.Forward(*operators.CompiledBatchNorm.apply(*inputs, number, keep_bits))
    with torch._C._AutoDispatchBelowAutograd():
        return cpu.forward(*inputs, activation, keep_bits)


@torch.no_grad()
def update_running(
    estimator: Estimator,
    batch: Moments,
    running_mean: Tensor,
    running_var: Tensor,
    updates: Tensor | None = None,
    count: Tensor | None = None,
) -> None:
    """The estimate step: one more batch enters the buffers, in place.

    Args:
        estimator: how.
        batch: the batch's moments.
        running_mean: shape (C,).
        running_var: shape (C,), unbiased.
        updates: int64, how many batches entered, or None where nobody counts.
        count: int64, how many values per channel entered, or None where the estimator does not need it.
    """
    if type(estimator) is Ema and count is None and _moved_by_ema(estimator, batch, running_mean, running_var):
        if updates is not None:
            updates.add_(1)
        return
    # Numbers of batches and values in float64, wherever the device has it: 1 - (1 - w)^k has no digits to lose.
    wide = torch.float32 if running_mean.device.type == "mps" else torch.float64
    counters = [0 if counter is None else counter.to(wide) for counter in (updates, count)]
    after = estimator.update(RunningStatistics(running_mean, running_var, *counters), batch)
    for buffer, value in zip((running_mean, running_var, updates, count), vars(after).values(), strict=True):
        if buffer is None:
            continue
        # Autograd of an earlier forward may have seen the buffer, but needs no value of it: PyTorch's own operator
        # changes it behind autograd's back too.
        target = buffer if torch.compiler.is_compiling() or transformed() else buffer.data
        target.copy_(value if isinstance(value, Tensor) else torch.as_tensor(value))


def _moved_by_ema(ema: Ema, batch: Moments, running_mean: Tensor, running_var: Tensor) -> bool:
    """Whether the compiled step did it: for what the compiled kernels gathered, in plain buffers."""
    if not isinstance(batch.count, int) or batch.count < 2 or batch.mean.dtype is not torch.float64 or not built():
        return False
    if torch.compiler.is_compiling() or transformed() or type(batch.mean) is not Tensor:
        return False
    population = Moments(0.0, 1.0, batch.count).population_var()
    return cpu.move_running(running_mean, running_var, batch.mean, batch.var, population, ema.weight_of_new)
