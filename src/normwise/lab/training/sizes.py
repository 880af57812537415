"""Sizes of signals and gradients, layer by layer, in a network of any form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TINY = 1e-30
"""What a size of 0 counts as, where its logarithm is taken."""


def sizes(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """What the layers with weights receive, and what their weights' gradients are, in training mode.

    Args:
        model: of convolutions and linear layers, each of which is called once.
        images: a batch.
        labels: their classes.

    Returns:
        ``signals``, log10 of the root mean square of each layer's input; ``gradients``, log10 of the norm of the loss's
        gradient by its weights over the norm of the weights; both in the order in which the layers are called; and
        ``loss``.
    """
    called: list[tuple[nn.Module, float]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, given: called.append((layer, float(given[0].detach().square().mean())))
        )
        for layer in layers
    ]
    loss = cross_entropy(model.train()(images), labels)
    for hook in hooks:
        hook.remove()
    weights = [layer.get_parameter("weight") for layer, _ in called]
    gradients = torch.autograd.grad(loss, weights)
    shares = torch.stack(
        [gradient.norm() / weight.detach().norm() for gradient, weight in zip(gradients, weights, strict=True)]
    )
    squares = torch.tensor([square for _, square in called])
    return {
        "signals": (squares.clamp_min(TINY).log10() / 2).tolist(),
        "gradients": shares.clamp_min(TINY).log10().tolist(),
        "loss": float(loss.detach()),
    }
