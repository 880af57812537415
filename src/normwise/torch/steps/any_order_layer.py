"""Derivatives of every order for PyTorch's layer norm, whose third one is silently wrong.

Its formula for the second derivative takes a row's own mean and deviation for constants (in PyTorch 2.13), as that of
batch norm does (``any_order``), so what is derived from it once more is not the third derivative. A backward of which a
graph is wanted is therefore made from plain PyTorch operations. Group norm needs none of this: its formula is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from normwise.kernels.internals import current_node
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS

Gradients = tuple[Tensor | None, ...]

REFUSAL = (
    "the third derivative of layer normalization under torch.utils.checkpoint was asked for, which PyTorch's operator "
    "gets wrong: leave the checkpoint out, or set NORMWISE_KERNEL=two_pass."
)


def differentiable(y: Tensor, shape: Sequence[int], eps: float) -> Tensor:
    """``y`` itself, an output of PyTorch's layer norm, now with right derivatives of every order.

    Args:
        y: the output.
        shape: the normalized one, of the last axes.
        eps: added to the variance.
    """
    if torch.compiler.is_compiling():  # compiled graphs have first derivatives only
        return y
    node = y.grad_fn
    if node is not None and hasattr(node, "_saved_input"):
        node.register_hook(_replacing(tuple(shape), eps))
    return y


def _replacing(shape: tuple[int, ...], eps: float) -> Callable[[Gradients, Gradients], Gradients | None]:
    def replace(found: Gradients, given: Gradients) -> Gradients | None:
        """The gradients of x, scale and shift as plain PyTorch operations give them, in the place of the operator's."""
        dy = given[0]
        if not torch.is_grad_enabled() or dy is None:
            return None
        node: Any = current_node()
        try:
            x, scale, shift = node._saved_input, node._saved_weight, node._saved_bias
        except CheckpointError:  # a checkpoint hands out what it saved only once, and the operator had it
            for gradient in found:
                if gradient is not None and gradient.requires_grad:
                    gradient.register_hook(_refuse)
            return None
        y, _ = TWO_PASS.forward_batch(Call(x.reshape(1, -1, *shape), eps=eps))
        y = y.reshape(x.shape)
        y = y if scale is None else y * scale
        y = y if shift is None else y + shift
        wanted = [tensor for tensor, at in zip((x, scale, shift), found, strict=False) if at is not None]
        gradients = iter(torch.autograd.grad(y, wanted, dy, create_graph=True) if wanted else ())
        return tuple(None if at is None else next(gradients) for at in found)

    return replace


def _refuse(_: Tensor) -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(REFUSAL)
