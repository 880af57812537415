"""Derivatives of every order for PyTorch's operator, whose third one is wrong or refused.

Its formula for the second derivative takes the batch's own mean and variance for constants, so what is derived from it
once more is not the third derivative: PyTorch 2.13 gives it silently, and 2.14 refuses. A backward of which a graph is
wanted (``create_graph=True``) is therefore made from plain PyTorch operations, which are right at any order. All other
backwards stay the operator's own, and pay for a look at the grad mode only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, is_grad_enabled  # by its name alone: every backward asks
from torch.utils.checkpoint import CheckpointError

from normwise.kernels.internals import current_node
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS

_DONE = "normwise: gradients by plain PyTorch operations"

REFUSAL = (
    "the third derivative of batch normalization under torch.utils.checkpoint was asked for, which PyTorch's operator "
    "gets wrong: leave the checkpoint out, or set NORMWISE_KERNEL=two_pass."
)


def _look(_: Tensor) -> None:
    """Called with the gradient of y, before the operator's backward."""
    if not is_grad_enabled() or torch.compiler.is_compiling():
        return
    node: Any = current_node()
    # On the class: the node itself would unpack what a checkpoint hands out only once.
    if not hasattr(type(node), "_saved_input"):  # another node, of which y is an input in a graph that someone rewrote
        return
    if _DONE not in node.metadata:
        node.metadata[_DONE] = True
        node.register_hook(_replace)


def _replace(found: tuple[Tensor | None, ...], given: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
    """The gradients of x, scale and shift as plain PyTorch operations give them, in the place of the operator's."""
    dy = given[0]
    if not torch.is_grad_enabled() or dy is None:
        return None
    node: Any = current_node()
    try:
        x, scale = node._saved_input, node._saved_weight
    except CheckpointError:  # a checkpoint hands out what it saved only once, and the operator had it
        for gradient in found:
            if gradient is not None and gradient.requires_grad:
                gradient.register_hook(_refuse)
        return None
    eps: float = node._saved_eps if hasattr(node, "_saved_eps") else node._saved_epsilon
    wanted = [tensor for tensor, gradient in zip((x, scale), found, strict=False) if gradient is not None]
    y, _ = TWO_PASS.forward_batch(Call(x, scale=scale, eps=eps))
    gradients = iter(torch.autograd.grad(y, wanted, dy, create_graph=True) if wanted else ())
    dx, dscale = (None if gradient is None else next(gradients) for gradient in found[:2])
    dshift = None if found[2] is None else dy.sum([axis for axis in range(dy.dim()) if axis != 1], dtype=found[2].dtype)
    return dx, dscale, dshift


def _refuse(_: Tensor) -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(REFUSAL)


# One dict for all outputs: what Tensor.register_hook does, without a handle for each call that nobody wants.
_HOOKS: Any = OrderedDict({0: _look})


def derivatives_of_any_order(y: Tensor) -> Tensor:
    """``y`` itself, an output of PyTorch's batch norm in training, where nothing compiles, with right derivatives."""
    node = y.grad_fn
    if node is not None:
        y._backward_hooks = _HOOKS
        node._register_hook_dict(y)
        y._backward_hooks = None  # hooks of the user's are to come into a dict of their own
    return y
