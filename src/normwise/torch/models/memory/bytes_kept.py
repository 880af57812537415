"""The number of bytes that autograd keeps between a forward and its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from normwise.kernels.internals import storage_number


def bytes_kept(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Run a forward, and count what it saves for its backward; the model's own tensors do not count.

    Hooks inside of it that make something of a tensor count as what they hand on.

    Args:
        model: whose parameters and buffers do not count.
        forward: what it returns is dropped behind it.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 3)
        >>> bytes_kept(layer, lambda: layer(torch.ones(5, 2)).exp())
        100
    """
    kept: list[Tensor] = []  # they live until they are counted, so that no number comes twice

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor if tensor.grad_fn is None else tensor.detach())
        return kept[-1]

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward()
    own = {storage_number(tensor) for tensor in (*model.parameters(), *model.buffers())}
    storages = {storage_number(each): each.untyped_storage().nbytes() for each in kept}
    del y
    return sum(size for number, size in storages.items() if number not in own)
