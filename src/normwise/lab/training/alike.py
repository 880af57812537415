"""The similarity of the samples to each layer of a stack: the mean cosine between two of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from normwise.lab.networks.stack import Stack


def mean_cosine(x: Tensor) -> Tensor:
    """The mean cosine over all pairs of different samples: shape (..., features, n) to (...).

    Example:
        >>> mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item()
        0.0
    """
    units = normalize(x, dim=-2)
    n = x.shape[-1]
    pairs: Tensor = units.sum(dim=-1).square().sum(dim=-1) - units.square().sum(dim=(-2, -1))
    return pairs / (n * (n - 1))


def alike(stack: Stack, images: Tensor, *, by_batch: bool) -> list[list[float]]:
    """The mean cosine between the activations of two samples, for each member and layer: shape (members, layers).

    Args:
        stack: keeps its parameters; its running statistics are put back.
        images: shape (n, pixels).
        by_batch: normalize by their own statistics, as in training, instead of by the running ones.
    """
    kept = {name: value.clone() for name, value in stack.state_dict().items()}
    found: list[Tensor] = []

    def measure(_: torch.nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
        found.append(mean_cosine(stack.activate(out.view(stack.members, -1, out.shape[-1]))))

    hooks = [layer.register_forward_hook(measure) for layer in stack.normalize]
    training = stack.training
    stack.train(by_batch)
    with torch.no_grad():
        stack(images)
    for hook in hooks:
        hook.remove()
    stack.train(training)
    stack.load_state_dict(kept)
    cosines: list[list[float]] = torch.stack(found, dim=1).tolist()
    return cosines
