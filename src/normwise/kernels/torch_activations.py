"""The activations of ``reference_activations`` in torch, with the addition of the residual before them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.kernels.internals import is_transformed

# In place where autograd needs only the result: the tensor is ours, nobody has seen it yet.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu_,
    "mish": F.mish,
    "relu": torch.relu_,
    "relu6": lambda y: F.hardtanh_(y, 0.0, 6.0),
    "sigmoid": torch.sigmoid_,
    "silu": F.silu,
    "tanh": torch.tanh_,
}


def activate(y: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """``activation(y + residual)`` in the dtype of y, and in its memory where possible; nobody else may use y."""
    if residual is not None:
        # Under vmap y may lack the axis that the residual has; its memory is then too small.
        mapped = not torch.compiler.is_compiling() and is_transformed(residual)
        y = (y + residual).to(y.dtype) if mapped else y.add_(residual)
    return y if activation is None else ACTIVATIONS[activation](y)
