"""A model with another normalization in the places of its batch norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from normwise import torch as ours
from normwise.errors import NormwiseError

GROUP = 8
"""Channels per group, at least, where they can be divided so."""
Places = list[tuple[nn.Module, str, "nn.modules.batchnorm._BatchNorm"]]


def _groups(channels: int) -> int:
    """How many groups of at least ``GROUP`` channels there can be, at most 32 of them."""
    return max(n for n in range(1, 33) if channels % n == 0 and (n == 1 or channels // n >= GROUP))


def _kind(name: str) -> Callable[[nn.modules.batchnorm._BatchNorm, int], nn.Module]:
    """Makes one of the package's layers of as many dimensions as a batch norm has."""

    def make(norm: nn.modules.batchnorm._BatchNorm, batch: int) -> nn.Module:
        dimensions = next(n for n in (1, 2, 3) if isinstance(norm, getattr(nn, f"BatchNorm{n}d")))
        options: dict[str, Any] = {"eps": norm.eps}
        if name == "GhostBatchNorm":
            options["virtual_batch_size"] = max(2, min(16, batch // 2))
        if name == "InstanceNorm":
            options["affine"] = True
        layer: nn.Module = getattr(ours, f"{name}{dimensions}d")(norm.num_features, **options)
        return layer

    return make


NORMALIZERS: dict[str, Callable[[nn.modules.batchnorm._BatchNorm, int], nn.Module]] = {
    "none": lambda _norm, _batch: nn.Identity(),
    "batch": _kind("BatchNorm"),
    "ghost": _kind("GhostBatchNorm"),
    "renorm": _kind("BatchRenorm"),
    "group": lambda norm, _batch: ours.GroupNorm(_groups(norm.num_features), norm.num_features, eps=norm.eps),
    "layer": lambda norm, _batch: ours.GroupNorm(1, norm.num_features, eps=norm.eps),
    "instance": _kind("InstanceNorm"),
}
"""Makes a layer from the batch norm whose place it takes and the size of the batches; layer norm is one group."""


def places(model: nn.Module) -> Places:
    """Every batch norm with the module that holds it and its name there.

    Raises:
        NormwiseError: there is none.
    """
    found: Places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    ]
    if not found:
        raise NormwiseError(
            "MODEL has no batch norm whose place another normalization could take: build it with torch.nn's "
            "BatchNorm1d, 2d or 3d where one is to be."
        )
    return found


def replace(model: nn.Module, normalizer: str, batch: int) -> nn.Module:
    """Change a model in place: each batch norm makes room for a new layer, scale and shift taken over where both have.

    Args:
        model: not yet trained.
        normalizer: a name in ``NORMALIZERS``.
        batch: size of the batches that it will be trained with.
    """
    for parent, name, norm in places(model):
        layer = NORMALIZERS[normalizer](norm, batch).to(next(iter(norm.parameters()), torch.empty(0)).device)
        with torch.no_grad():
            for parameter in ("weight", "bias"):
                old, new = getattr(norm, parameter, None), getattr(layer, parameter, None)
                if old is not None and new is not None and old.shape == new.shape:
                    new.copy_(old)
        setattr(parent, name, layer)
    return model
