"""The Triton kernels as PyTorch operators: shapes for tracing, gradients, and the member of ``Kernel``.

They are registered under names of their own, whether Triton is there or not; Triton is imported by the first call. The
operators take what the compiled ones of ``operators.py`` take, so their gradients and shapes are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.kernels import cpu
from normwise.kernels.internals import below_autograd
from normwise.kernels.kernel import Call
from normwise.kernels.triton_gpu.layout import lies_last, number_of_bytes
from normwise.moments import Moments
from normwise.torch.steps import operators

MOMENTS, FORWARD, BACKWARD = "triton_moments", "triton_forward", "triton_backward"
SCHEMAS = {
    MOMENTS: "(Tensor x, Tensor? mask) -> (Tensor, Tensor)",
    FORWARD: "(Tensor x, Tensor? residual, Tensor? mask, Tensor? scale, Tensor? shift, Tensor? mean, Tensor? var, "
    "float eps, int activation, bool keep_bits, int groups) -> (Tensor, Tensor, Tensor, Tensor)",
    BACKWARD: "(Tensor dy, Tensor x, Tensor? residual, Tensor? mask, Tensor? scale, Tensor? shift, Tensor mean, "
    "Tensor var, Tensor bits, float eps, int activation, bool by_batch, bool wants_dx, bool wants_dresidual, "
    "int groups) -> (Tensor, Tensor, Tensor, Tensor)",
}
LIBRARY = torch.library.Library("normwise", "FRAGMENT")


def register() -> None:
    """Register all of it; called once."""
    found: dict[str, tuple[Any, Any]] = {
        MOMENTS: (_moments, operators.fake_moments),
        FORWARD: (_forward, _fake_forward),
        BACKWARD: (_backward, operators.fake_backward),
    }
    for name, (function, fake) in found.items():
        LIBRARY.define(f"{name}{SCHEMAS[name]}", tags=(torch.Tag.pt2_compliant_tag,))
        for key in ("CPU", "CUDA"):  # the interpreter runs on CPU tensors; ROCm calls itself CUDA
            LIBRARY.impl(name, function, key)
        torch.library.register_fake(f"normwise::{name}", fake, lib=LIBRARY)
    torch.library.register_autograd(f"normwise::{FORWARD}", operators.gradients, setup_context=save, lib=LIBRARY)


def _moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    from normwise.kernels.triton_gpu import launch  # Triton comes in with it

    return launch.moments(cpu.dense(x), mask)


def _forward(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from normwise.kernels.triton_gpu import launch

    return launch.forward(cpu.dense(x), *others[:-1])  # the last one is the number of groups, of which there are none


def _backward(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from normwise.kernels.triton_gpu import launch

    return launch.backward(dy, cpu.dense(x), *others[:-1])


# The shapes follow from some of the arguments only; the names of all are the operators'.
# ruff: noqa: ARG001


def _fake_forward(
    x: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: int,
    keep_bits: bool,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    number = number_of_bytes(x.shape, last=lies_last(x)) if keep_bits else 0
    mean, var = operators.per_channel(x, 0), operators.per_channel(x, 0)
    return torch.empty_like(x), mean, var, x.new_empty(number, dtype=torch.uint8)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what the backward needs, and the operator that computes it."""
    operators.save(ctx, inputs, output, "triton_backward")


class TritonBatchNorm(torch.autograd.Function):
    """The operator with its gradient, for the layers: what is registered above costs 0.1 ms more a call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """The operator itself."""
        with below_autograd():
            output: tuple[Tensor, ...] = torch.ops.normwise.triton_forward(*inputs)
        save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *dys: Any) -> tuple[Any, ...]:
        """The gradients as they are registered for the operator."""
        return operators.gradients(ctx, *dys)


# As in ``operators.py``.
apply_triton: Any = super(torch.autograd.Function, TritonBatchNorm).apply


class TritonGpu:
    """The kernel that is written in Triton, with its gradients: float16, bfloat16 and float32 on GPUs."""

    name = "triton"

    def forward_batch(self, call: Call) -> tuple[Tensor, Moments]:
        """Normalize with the batch's own statistics; these, and a mask's count, which nobody waits for, are float64."""
        y, mean, var, _ = self._run(call, None, None)
        return y, Moments(mean, var, _count(call))

    def forward_running(self, call: Call) -> Tensor:
        """Normalize with running statistics by the Triton kernel."""
        return self._run(call, call.mean, call.var)[0]

    @torch.no_grad()
    def moments(self, call: Call) -> Moments:
        """The batch's statistics alone, in float64 and without a gradient."""
        mean, var = torch.ops.normwise.triton_moments(cpu.dense(call.x), call.weights)
        return Moments(mean, var, _count(call))

    def _run(self, call: Call, mean: Tensor | None, var: Tensor | None) -> tuple[Tensor, ...]:
        """The operator on any strides: output, mean, variance, bits."""
        x, mask, _, _, scale, shift, eps, activation, residual = call
        compiling = torch.compiler.is_compiling()
        number = operators.in_graph(activation)[0] if compiling else cpu.number_of(activation)
        learning = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad for tensor in (x, residual, scale, shift)
        )
        save_bits = learning and residual is not None and cpu.has_one_bit(activation)
        given = (cpu.dense(x), residual, mask, scale, shift, mean, var, eps, number, save_bits, 0)
        found: tuple[Tensor, ...]
        if compiling:  # with the gradient and the shapes that are registered, which alone a graph can hold
            found = torch.ops.normwise.triton_forward(*given)
        elif learning:
            found = apply_triton(*given)
        else:
            with below_autograd():
                found = torch.ops.normwise.triton_forward(*given)
        return found


def _count(call: Call) -> int | Tensor:
    """The number of values of a channel that count; a tensor under a mask, so that the host waits for no device.

    Shape () where all channels share the mask, else (C,).
    """
    x, mask = call.x, call.weights
    per_channel = x.numel() // max(x.shape[1], 1)
    if mask is None:
        return per_channel
    if mask.shape[1] == 1:
        return mask.sum(dtype=torch.float64) * (per_channel // max(mask.numel(), 1))
    of_channels = mask.sum([axis for axis in range(mask.dim()) if axis != 1], dtype=torch.float64)
    return of_channels * (per_channel // max(mask.numel() // mask.shape[1], 1))
