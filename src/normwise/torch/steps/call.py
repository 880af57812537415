"""The one place where the arguments of a call are checked, its kernel is chosen, and the running statistics follow."""

from __future__ import annotations

import torch
from torch import Tensor

from normwise.estimators.ema import Ema
from normwise.kernels.choose import STRANGE, Choice, choose
from normwise.kernels.internals import innermost_transform
from normwise.kernels.kernel import Call, Kernel
from normwise.kernels.recording import recording, traced
from normwise.kernels.torch_activations import ACTIVATIONS, activate
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch.steps.buffers import NARROW, transformed
from normwise.torch.steps.checks import (
    cast_parameters,
    check_activation,
    check_dense,
    check_residual,
    checked_like_torch,
)
from normwise.torch.steps.checks_mask import check_masked_count, check_weights
from normwise.torch.steps.estimate import update_running
from normwise.torch.steps.normalize_aten import AtenAtAnyOrder, normalize_and_update_by_aten
from normwise.torch.steps.operators import Cpu
from normwise.torch.steps.triton_operators import TritonGpu

CPU, ATEN, TRITON = Cpu(), AtenAtAnyOrder(), TritonGpu()
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (CPU, ATEN, TWO_PASS, TRITON)}


def checked(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    mask: Tensor | None,
    sample_weight: Tensor | None,
    *,
    by_batch: bool,
    momentum: float | None = 0.0,
    ask_torch: bool = True,
) -> tuple[Call, Kernel]:
    """The record of a call and the kernel that serves it; what no kernel could serve is refused before any change.

    PyTorch's operator checks its own arguments, so for the small tensors that it serves nothing is checked twice.

    Args:
        x: (N, C, *spatial); all arguments are as in ``functional.batch_norm``.
        mean: the running mean.
        var: the running variance.
        scale: gamma.
        shift: beta.
        eps: added to the variance.
        activation: a name, or None.
        residual: added before the activation, or None.
        mask: boolean, or None.
        sample_weight: how much values count, or None.
        by_batch: whether to normalize with batch statistics, or else with running ones.
        momentum: of the running statistics, for PyTorch's own checks.
        ask_torch: whether to refuse what PyTorch refuses; the caller may have to look at the batch first, and then
            calls ``like_torch``.

    Raises:
        ValueError: as ``functional.batch_norm`` does.
        TypeError: as ``functional.batch_norm`` does.
    """
    if activation is not None and activation not in ACTIVATIONS:
        check_activation(activation)
    if residual is not None:
        check_residual(residual, x)
    weights = None if mask is None and sample_weight is None else check_weights(mask, sample_weight, x)
    if x.dtype in NARROW:
        scale, shift = cast_parameters(x, mean, scale, shift)
    call = Call(x, weights, mean, var, scale, shift, eps, activation, residual)
    # As ``choice_for``, without its calls: every call of every layer comes by here.
    recorded = recording()
    compiling = recorded and torch.compiler.is_compiling()
    choice = choose(
        call,
        by_batch=by_batch,
        compiling=compiling,
        recorded=recorded and not compiling,
        transformed=not compiling and innermost_transform() is not None,
    )
    if choice is STRANGE:
        check_dense(x)
    kernel = KERNELS[choice.name]
    if kernel is ATEN or not ask_torch:
        return call, kernel
    return like_torch(call, by_batch=by_batch, momentum=momentum), kernel


def like_torch(call: Call, *, by_batch: bool, momentum: float | None = 0.0) -> Call:
    """The call, where PyTorch takes its arguments, with one axis for every statistic and parameter.

    Args:
        call: what is to be computed.
        by_batch: with batch statistics, or else with running ones.
        momentum: of the running statistics.

    Raises:
        ValueError: PyTorch's own; a mask that leaves one value per channel of a training batch.
    """
    x, weights, mean, var, scale, shift, eps, _, _ = call
    plain = (
        x.dim() > 1
        and x.is_floating_point()
        and isinstance(momentum, int | float)
        and (mean is None) == (var is None)
        and (by_batch or mean is not None)
        and (eps > 0 or (eps == 0 and not by_batch))
        and not (by_batch and x.numel() == x.shape[1])
    )
    if plain:
        first, device, shape = None, x.device, (x.shape[1],)
        for tensor in (scale, shift, mean, var):
            if tensor is None:
                continue
            if not isinstance(tensor, Tensor) or tensor.shape != shape or tensor.device != device:
                plain = False
                break
            first = tensor.dtype if first is None else first
            learns = tensor.requires_grad and (tensor is mean or tensor is var)  # torch has no gradient of statistics
            plain = plain and tensor.dtype is first and not learns
        plain = plain and (first is None or first is x.dtype or (x.dtype in NARROW and first is torch.float32))
    if not plain:
        call = checked_like_torch(call, by_batch, momentum)
    if weights is not None and by_batch:
        check_masked_count(weights, x)
    return call


def normalize_and_update(
    call: Call, kernel: Kernel, momentum: float, updates: Tensor | None = None, skipped: Tensor | None = None
) -> Tensor:
    """The output with batch statistics, which enter the running ones of the call by a moving average.

    Args:
        call: checked.
        kernel: what serves it.
        momentum: weight of the new batch.
        updates: int64, counts the batches that entered, or None.
        skipped: int64, counts those that did not in some channel, or None.
    """
    if isinstance(kernel, AtenAtAnyOrder):
        y = normalize_and_update_by_aten(call, momentum, updates, skipped)
        return y if call.activation is None and call.residual is None else activate(y, call.activation, call.residual)
    y, batch = kernel.forward_batch(call)
    if call.mean is not None and call.var is not None:
        update_running(Ema(momentum), batch, call.mean, call.var, updates, skipped=skipped)
    return y


def choice_for(call: Call, *, by_batch: bool) -> Choice:
    """The kernel that serves a call, and the reason."""
    compiling = torch.compiler.is_compiling()
    return choose(call, by_batch=by_batch, compiling=compiling, recorded=traced(), transformed=transformed())


def kernel_for(call: Call, *, by_batch: bool) -> Kernel:
    """The kernel that serves a call which is made of a checked one."""
    return KERNELS[choice_for(call, by_batch=by_batch).name]
