"""Sizes of gradients through the layers of a network at initialization, and what mean field theory says of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from normwise.lab.networks.dense import Dense


def log_norms(model: Dense, images: Tensor, labels: Tensor) -> list[float]:
    """Log10 of the norm of the loss's gradient by each linear layer's output, from the input upwards."""
    outputs: list[Tensor] = []
    for layer in model.linear:
        layer.register_forward_hook(lambda *seen: outputs.append(seen[-1]))
    gradients = torch.autograd.grad(cross_entropy(model(images), labels), outputs)
    return [math.log10(float(gradient.norm())) for gradient in gradients]


def theorem_8(batch: float) -> float:
    """Growth per layer of the squared gradient norm towards the input, for ReLU and batches of ``batch`` > 3.

    With c = -1 / (B - 1), J(c) = (sqrt(1 - c^2) + (pi - arccos c) c) / pi and J'(c) = 1 - arccos(c) / pi:

        (J'(c) + B - 1) / ((B - 3) (1 - J(c))) - 1 / (B - 3)

    References:
        G. Yang et al., A Mean Field Theory of Batch Normalization, 2019, arXiv:1902.08129, theorem 8.

    Example:
        >>> round(theorem_8(60), 4), round(theorem_8(1e9), 4)
        (1.4949, 1.4669)
    """
    c = -1 / (batch - 1)
    j = (math.sqrt(1 - c * c) + (math.pi - math.acos(c)) * c) / math.pi
    slope = 1 - math.acos(c) / math.pi
    return (slope + batch - 1) / ((batch - 3) * (1 - j)) - 1 / (batch - 3)
