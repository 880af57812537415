"""The compiled operators as a graph of ``torch.compile`` holds them: they take every tensor as the compiler lays it.

On CPUs Inductor computes convolutions with the channels last, whatever the network has. To an operator that says
nothing of layouts it gives each tensor as it lay when the graph was recorded, which costs two copies per layer and
pass. These say ``flexible_layout``, and put right here what the kernels do not take.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normwise.kernels import cpu
from normwise.torch.steps import operators
from normwise.torch.steps.operators import channels_last, lanes_of, per_channel

FORWARD, BACKWARD = "forward_in_graph", "backward_in_graph"


def register() -> None:
    """Register both; called once, when the operators are there."""
    for name, schema, function, fake in (
        (FORWARD, torch.ops.normwise.batch_norm_forward.default._schema, _forward, _fake_forward),
        (BACKWARD, torch.ops.normwise.batch_norm_backward.default._schema, _backward, operators.fake_backward),
    ):
        arguments = str(schema).partition("(")[2]
        LIBRARY.define(f"{name}({arguments}", tags=(torch.Tag.flexible_layout, torch.Tag.pt2_compliant_tag))
        LIBRARY.impl(name, function, "CPU")
        torch.library.register_fake(f"normwise::{name}", fake, lib=LIBRARY)
    torch.library.register_autograd(f"normwise::{FORWARD}", operators.gradients, setup_context=_save, lib=LIBRARY)


LIBRARY = torch.library.Library("normwise", "FRAGMENT")


def _forward(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lies = cpu.dense(x)
    y, mean, var, bits = operators.forward_operator(lies, *others)
    if bits.numel():
        # As many as in either layout, and behind them which it was: the backward may find x in the other one.
        told = bits.new_zeros(_bytes_of_bits(x))
        told[: bits.numel()] = bits
        told[-1] = channels_last(lies)
        bits = told
    return _as_told(y, x), mean, var, bits


def _backward(dy: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lies, bits = cpu.dense(x), others[6]
    if bits.numel() and bool(bits[-1]) != channels_last(lies):
        last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        lies = lies.contiguous(memory_format=last if bits[-1] else torch.contiguous_format)
    dx, dscale, dshift, dresidual = torch.ops.normwise.batch_norm_backward.default(dy, lies, *others)
    return _as_told(dx, x), dscale, dshift, _as_told(dresidual, x)


def _as_told(found: Tensor, x: Tensor) -> Tensor:
    """The output in the strides that the compiler was told; one that is not wanted is empty."""
    told = torch.empty_like(x, device="meta").stride()
    if not found.numel() or found.stride() == told:
        return found
    return torch.empty_strided(found.shape, told, dtype=found.dtype).copy_(found)


def _bytes_of_bits(x: Tensor) -> Any:
    """Bytes for one bit per element as the kernels lay them out, in the layout that wants more, and one for which."""
    lanes = lanes_of(x.dtype)
    places, channels = x.numel() // x.shape[1], x.shape[1]
    samples = x.shape[0]
    first = samples * channels * ((places // samples + lanes - 1) // lanes)
    last = places * ((channels + lanes - 1) // lanes)
    return torch.sym_max(first, last) * max(lanes // 8, 1) + 1


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
    bits = x.new_empty(_bytes_of_bits(x) if keep_bits else 0, dtype=torch.uint8)
    return torch.empty_like(x), per_channel(x, groups), per_channel(x, groups), bits


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    operators.save(ctx, inputs, output)
    ctx.operator = torch.ops.normwise.backward_in_graph.default
