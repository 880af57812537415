"""The activations of ``reference_activations`` in torch, with the addition of the residual before them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from normwise.kernels.activation_numbers import parted
from normwise.kernels.internals import is_transformed


def _hardsigmoid(y: Tensor) -> Tensor:
    # The slope of PyTorch's own is 1/6 in float32, which float64 shows.
    return F.hardtanh(y + 3.0, 0.0, 6.0) / 6.0 if y.dtype is torch.float64 else F.hardsigmoid(y)


# In place where autograd needs only the result: the tensor is ours, nobody has seen it yet.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "hardsigmoid": _hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu_,
    "mish": F.mish,
    "relu": torch.relu_,
    "relu6": lambda y: F.hardtanh_(y, 0.0, 6.0),
    "sigmoid": torch.sigmoid_,
    "silu": F.silu,
    "tanh": torch.tanh_,
}
# The same with a setting that is not the usual one. Autograd derives the in-place leaky ReLU from its result, whose
# sign tells the side only for a slope above 0.
WITH_SETTING: dict[str, Callable[[Tensor, float], Tensor]] = {
    "elu": F.elu,
    "leaky_relu": lambda y, slope: F.leaky_relu_(y, slope) if slope > 0 else F.leaky_relu(y, slope),
}


def activate(y: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """``activation(y + residual)`` in the dtype of y, and in its memory where possible; nobody else may use y."""
    if residual is not None:
        # Under vmap y may lack the axis that the residual has; its memory is then too small.
        mapped = not torch.compiler.is_compiling() and is_transformed(residual)
        y = (y + residual).to(y.dtype) if mapped else y.add_(residual)
    if activation is None:
        return y
    if (plain := ACTIVATIONS.get(activation)) is not None:
        return plain(y)
    kind, setting = parted(activation)
    assert setting is not None
    return WITH_SETTING[kind](y, setting)
