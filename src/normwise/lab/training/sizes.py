"""Sizes of signals and gradients, layer by layer, in a network of any form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TINY = 1e-30
"""The size that 0 counts as, where its logarithm is taken."""


def sizes(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """The sizes of the inputs of layers with weights, and of the gradients by inputs and weights, in training mode.

    Args:
        model: of convolutions and linear layers, each of which is called once.
        images: a batch.
        labels: their classes.

    Returns:
        ``signals``, log10 of the root mean square of each layer's input; ``gradients``, log10 of the norm of the loss's
        gradient by that input; ``shares``, log10 of the norm of the gradient by the layer's weights over the norm of
        the weights; all in the order in which the layers are called; and ``loss``.
    """
    called: list[tuple[nn.Module, Tensor]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda layer, given: called.append((layer, given[0]))) for layer in layers]
    loss = cross_entropy(model.train()(images.clone().requires_grad_()), labels)
    for hook in hooks:
        hook.remove()
    weights, inputs = [layer.get_parameter("weight") for layer, _ in called], [given for _, given in called]
    found = torch.autograd.grad(loss, [*weights, *inputs])
    by_weights, by_inputs = found[: len(weights)], found[len(weights) :]
    shares = [gradient.norm() / weight.detach().norm() for gradient, weight in zip(by_weights, weights, strict=True)]
    return {
        "signals": _log([given.detach().square().mean().sqrt() for given in inputs]),
        "gradients": _log([gradient.norm() for gradient in by_inputs]),
        "shares": _log(shares),
        "loss": float(loss.detach()),
    }


def _log(values: list[Tensor]) -> list[float]:
    return [float(value) for value in torch.stack(values).clamp_min(TINY).log10()]
