"""The facts about the compiled operators that PyTorch needs: shapes for tracing, gradients, and a rule for vmap."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.kernels import cpu, two_pass
from normwise.kernels.internals import below_autograd, constant_in_graph
from normwise.kernels.kernel import Call
from normwise.kernels.torch_activations import activate
from normwise.moments import Moments

MOMENTS = "normwise::batch_norm_moments"
FORWARD = "normwise::batch_norm_forward"
BACKWARD = "normwise::batch_norm_backward"
moments_operator: Any = None if cpu.library is None else torch.ops.normwise.batch_norm_moments.default
forward_operator: Any = None if cpu.library is None else torch.ops.normwise.batch_norm_forward.default


def register() -> None:
    """Register all of it; called once, when the operators are there."""
    torch.library.register_fake(MOMENTS, fake_moments)
    torch.library.register_fake(FORWARD, _fake_forward)
    torch.library.register_fake(BACKWARD, fake_backward)
    torch.library.register_autograd(FORWARD, gradients, setup_context=save)
    torch.library.register_vmap(MOMENTS, _one_by_one(torch.ops.normwise.batch_norm_moments.default))
    torch.library.register_vmap(FORWARD, _one_by_one(torch.ops.normwise.batch_norm_forward.default))
    torch.library.register_vmap(BACKWARD, _one_by_one(torch.ops.normwise.batch_norm_backward.default))


# The shapes follow from some of the arguments only; the names of all are the operators'.
# ruff: noqa: ARG001


def per_channel(x: Tensor, groups: int) -> Tensor:
    """One number for each channel that the kernels see."""
    return x.new_empty(x.shape[0] * x.shape[1] if groups else x.shape[1], dtype=torch.float64)


def fake_moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    return per_channel(x, 0), per_channel(x, 0)


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
    save_bits: bool,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    number = _bytes_of_bits(x) if save_bits else 0
    mean, var = per_channel(x, groups), per_channel(x, groups)
    return torch.empty_like(x), mean, var, x.new_empty(number, dtype=torch.uint8)


def _bytes_of_bits(x: Tensor) -> Any:
    """The number of bytes for one bit per element as the kernels lay them out: whole vectors for each run in memory."""
    lanes = lanes_of(x.dtype)
    runs, length = (x.numel() // x.shape[1], x.shape[1]) if channels_last(x) else _first(x)
    return runs * ((length + lanes - 1) // lanes) * max(lanes // 8, 1)


def lanes_of(dtype: torch.dtype) -> int:
    """The number of values in a vector of the kernels."""
    width = {"baseline": 16, "avx2": 32}.get(cpu.instruction_set(), 64)  # bytes of a vector
    return width // (8 if dtype is torch.float64 else 4)


def _first(x: Tensor) -> tuple[Any, Any]:
    """Runs in memory and their length where the channels come first."""
    runs = x.shape[0] * x.shape[1]
    return runs, x.numel() // runs


def channels_last(x: Tensor) -> bool:
    """True if the kernels take x for channels last: if it is dense in that order."""
    expected: Any = 1
    for axis in (1, *range(x.dim() - 1, 1, -1), 0):
        if x.shape[axis] != 1 and x.stride(axis) != expected:
            return False
        expected = expected * x.shape[axis]
    return True


def fake_backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    var: Tensor,
    bits: Tensor,
    eps: float,
    activation: int,
    by_batch: bool,
    wants_dx: bool,
    wants_dresidual: bool,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The shapes of the gradients."""

    def output(wanted: bool) -> Tensor:
        return torch.empty_like(x) if wanted else x.new_empty(0)

    def gradient(parameter: Tensor | None) -> Tensor:
        return x.new_empty(x.shape[1], dtype=torch.float64 if parameter is None else parameter.dtype)

    return output(wants_dx), gradient(scale), gradient(shift), output(wants_dresidual)


class Saved(NamedTuple):
    """The tensors kept for the backward; the residual only where the slope cannot be told without it."""

    x: Tensor
    residual: Tensor | None
    mask: Tensor | None
    scale: Tensor | None
    shift: Tensor | None
    mean: Tensor
    var: Tensor
    bits: Tensor


class Gradients(NamedTuple):
    """The gradient of each tensor that may have one, or whether it is wanted."""

    x: Any
    residual: Any
    scale: Any
    shift: Any

    def to_inputs(self) -> tuple[Any, ...]:
        """The gradients in the order of the operator's arguments: the mask has none, nor has what follows the shift."""
        return (self.x, self.residual, None, self.scale, self.shift, *[None] * 6)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], operator: str = "batch_norm_backward") -> None:
    """Keep what the backward needs, and the operator that computes it."""
    x, residual, mask, scale, shift, mean, _, eps, activation, save_bits, groups = inputs
    _, used_mean, used_var, bits = output
    ctx.mark_non_differentiable(used_mean, used_var, bits)
    ctx.eps, ctx.activation, ctx.by_batch = eps, activation, mean is None
    ctx.uses_bitmask, ctx.groups = save_bits, groups
    ctx.operator = getattr(torch.ops.normwise, operator)
    kept = None if save_bits or activation == cpu.ACTIVATIONS[None] else residual
    ctx.save_for_backward(*Saved(x, kept, mask, scale, shift, used_mean, used_var, bits))


def gradients(ctx: Any, dy: Tensor, *_: Any) -> tuple[Any, ...]:
    """The gradients of the operator's arguments, by the operator that ``save`` names."""
    saved = Saved(*ctx.saved_tensors)
    wants = Gradients(*(ctx.needs_input_grad[i] for i in (0, 1, 3, 4)))
    differentiable = torch.is_grad_enabled()  # a graph of the gradient is wanted
    return (_differentiable if differentiable else _gradients)(ctx, dy, saved, wants).to_inputs()


def _gradients(ctx: Any, dy: Tensor, saved: Saved, wants: Gradients) -> Gradients:
    dx, dscale, dshift, dresidual = ctx.operator(
        dy, *saved, ctx.eps, ctx.activation, ctx.by_batch, wants.x, wants.residual, ctx.groups
    )
    found = Gradients(dx, dresidual, dscale, dshift)
    return Gradients(*(gradient if wanted else None for gradient, wanted in zip(found, wants, strict=True)))


def _differentiable(ctx: Any, dy: Tensor, saved: Saved, wants: Gradients) -> Gradients:
    """The gradients by plain PyTorch operations, so that they have gradients themselves."""
    x, residual, mask, scale, shift, mean, var, _ = saved
    activation = cpu.name_of(ctx.activation)
    g = dy
    if ctx.uses_bitmask:
        # The residual was not kept. It has a part in the gradients only through the slope, which is constant on either
        # side of the kink, and is what the residual's gradient comes to for a dy of 1.
        with torch.no_grad():
            slope = _gradients(ctx, torch.ones_like(dy), saved, Gradients(False, True, False, False)).residual
        g, activation = dy * slope, None
    call = Call(x, mask, mean, var, scale, shift, ctx.eps, activation, residual)
    if ctx.groups:
        y = two_pass.forward_groups(call, ctx.groups)
    elif ctx.by_batch:
        y, _ = two_pass.TWO_PASS.forward_batch(call)
    else:
        y = two_pass.TWO_PASS.forward_running(call)
    inputs = Gradients(x, residual, scale, shift)
    chosen = [tensor for tensor, wanted in zip(inputs, wants, strict=True) if wanted and tensor is not None]
    found = iter(torch.autograd.grad(y, chosen, g, create_graph=True) if chosen else ())
    # A residual that was not kept has the gradient behind the activation.
    return Gradients(
        *(
            None if not wanted else g if tensor is None else next(found)
            for tensor, wanted in zip(inputs, wants, strict=True)
        )
    )


class CompiledBatchNorm(torch.autograd.Function):
    """The operator with its gradient, for the layers: what is registered above costs 0.1 ms more a call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """The operator itself."""
        with below_autograd():
            output: tuple[Tensor, ...] = forward_operator(*inputs)
        save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *dys: Any) -> tuple[Any, ...]:
        """The gradients as they are registered for the operator."""
        return gradients(ctx, *dys)


# ``CompiledBatchNorm.apply`` less its search for the wrappers of torch.func, under which the layers do not come here.
apply_compiled: Any = super(torch.autograd.Function, CompiledBatchNorm).apply


@constant_in_graph
def in_graph(activation: str | None) -> tuple[int, bool]:
    """``number_of`` and ``is_exact`` for the compiler, which sees through neither caches nor the bytes of a number."""
    return cpu.number_of(activation), cpu.is_exact(activation)


def _counted(x: Tensor, mask: Tensor) -> int:
    """The number of values of a channel that a mask lets count."""
    return int(mask.sum()) * (x.numel() // max(x.shape[1], 1) // max(mask.numel(), 1))


class Cpu:
    """The kernel that is compiled C++, with its gradients: float16, bfloat16, float32 and float64 on the CPU."""

    name = "cpu"

    def forward_batch(self, call: Call) -> tuple[Tensor, Moments]:
        """Normalize with the batch's own statistics; returns these too, in float64 and without a gradient."""
        x, mask = call.x, call.weights
        y, mean, var, _ = self.run(call, None, None)
        return y, Moments(mean, var, x.numel() // max(x.shape[1], 1) if mask is None else _counted(x, mask))

    def forward_running(self, call: Call) -> Tensor:
        """Normalize with running statistics by the compiled kernel."""
        return self.run(call, call.mean, call.var)[0]

    @torch.no_grad()
    def moments(self, call: Call) -> Moments:
        """The batch's statistics alone, in float64 and without a gradient."""
        x, mask = call.x, call.weights
        mean, var = moments_operator(x if x.is_contiguous() else cpu.dense(x), mask)
        return Moments(mean, var, x.numel() // max(x.shape[1], 1) if mask is None else _counted(x, mask))

    def forward_groups(self, call: Call, groups: int) -> Tensor:
        """Group norm of a contiguous x without a mask: in every sample each group of channels by its own moments."""
        return self.run(call, None, None, groups)[0]

    def run(self, call: Call, mean: Tensor | None, var: Tensor | None, groups: int = 0) -> tuple[Tensor, ...]:
        """The operator on any strides: output, mean, variance, bits.

        Args:
            call: what is to be computed.
            mean: to normalize with, or None for the batch's own.
            var: with ``mean``.
            groups: as for ``cpu.forward``.
        """
        x, mask, _, _, scale, shift, eps, activation, residual = call
        compiling = torch.compiler.is_compiling()
        if compiling:
            number, exact = in_graph(activation)
        else:
            number, exact = cpu.number_of(activation), x.dtype is not torch.float64 or cpu.is_exact(activation)
        if x.dtype is torch.float64 and not exact:  # then PyTorch does the activation behind
            y, *others = self.run(call._replace(activation=None), mean, var, groups)
            return activate(y, activation, None), *others
        learning = torch.is_grad_enabled() and (
            x.requires_grad
            or (scale is not None and scale.requires_grad)
            or (shift is not None and shift.requires_grad)
            or (residual is not None and residual.requires_grad)
        )
        x = x if x.is_contiguous() else cpu.dense(x)
        save_bits = learning and residual is not None and cpu.has_one_bit(activation)
        found: tuple[Tensor, ...]
        if compiling:  # with the gradient and the shapes that are registered, which alone a graph can hold
            operator = forward_operator if groups else torch.ops.normwise.forward_in_graph.default
            found = operator(x, residual, mask, scale, shift, mean, var, eps, number, save_bits, groups)
        elif learning:
            found = apply_compiled(x, residual, mask, scale, shift, mean, var, eps, number, save_bits, groups)
        else:
            with below_autograd():
                found = forward_operator(x, residual, mask, scale, shift, mean, var, eps, number, save_bits, groups)
        return found


def _one_by_one(operator: Any) -> Any:
    """The rule for vmap: the kernels want one dense batch at a time."""

    def rule(info: Any, dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        def pick(value: Any, dim: int | None, index: int) -> Any:
            return value if dim is None else value.select(dim, index)

        rows = [
            operator(*(pick(value, dim, index) for value, dim in zip(arguments, dims, strict=True)))
            for index in range(info.batch_size)
        ]
        return tuple(torch.stack(column) for column in zip(*rows, strict=True)), (0,) * len(rows[0])

    return rule
