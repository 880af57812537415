"""A PyTorch model with another normalization in the places of its batch norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from normwise import torch as ours
from normwise.errors import NormwiseError
from normwise.lab.comparison.arms import groups

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def _kind(name: str) -> Callable[[BatchNorm, int], nn.Module]:
    """Makes one of the package's layers of as many dimensions as a batch norm has."""

    def make(norm: BatchNorm, batch: int) -> nn.Module:
        options: dict[str, Any] = {"eps": norm.eps, "affine": norm.affine}
        if name in ("BatchNorm", "GhostBatchNorm"):
            options["momentum"] = norm.momentum
        if name == "GhostBatchNorm":
            options["virtual_batch_size"] = max(2, min(16, batch // 2))
        layer: nn.Module = getattr(ours, f"{name}{_dimensions(norm)}d")(norm.num_features, **options)
        return layer

    return make


def _group(norm: BatchNorm, number: int) -> nn.Module:
    return ours.GroupNorm(number, norm.num_features, eps=norm.eps, affine=norm.affine)


def _dimensions(norm: nn.Module) -> int:
    return next(n for n in (1, 2, 3) if isinstance(norm, getattr(nn, f"BatchNorm{n}d")))


LAYERS: dict[str, Callable[[BatchNorm, int], nn.Module]] = {
    "none": lambda _norm, _batch: nn.Identity(),
    "batch": _kind("BatchNorm"),
    "ghost": _kind("GhostBatchNorm"),
    "renorm": _kind("BatchRenorm"),
    "group": lambda norm, _batch: _group(norm, groups(norm.num_features)),
    "layer": lambda norm, _batch: _group(norm, 1),
    "instance": _kind("InstanceNorm"),
}
"""Makes a layer from the batch norm whose place it takes and the size of the batches; layer norm is one group."""


def batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, BatchNorm]]:
    """Every place of a batch norm: its full name, the module that holds it, its name there, itself."""
    for path, parent in model.named_modules():
        for name, child in parent._modules.items():
            if isinstance(child, BatchNorm):
                yield f"{path}.{name}".lstrip("."), parent, name, child


def check(model: nn.Module) -> None:
    """Refuse a model whose batch norms cannot make room for other layers.

    Raises:
        NormwiseError: it has none, or one that does more than normalizing, or one without running statistics.
    """
    found = [*batch_norms(model)]
    if not found:
        raise NormwiseError(
            "MODEL has no batch norm whose place another normalization could take: build it with torch.nn's "
            "BatchNorm1d, 2d or 3d where one is to be."
        )
    for name, _, _, norm in found:
        if getattr(norm, "activation", None) is not None:
            raise NormwiseError(
                f"MODEL's batch norm {name} has an activation of its own, {norm.activation!r}: build it with the "
                "activation as a layer behind it, and fuse the two after the comparison."
            )
        if not norm.track_running_stats:
            raise NormwiseError(
                f"MODEL's batch norm {name} keeps no running statistics, so that its output depends on the other "
                "samples at inference: build it with track_running_stats=True."
            )


def replace(model: nn.Module, normalizer: str, batch: int) -> None:
    """Change a model in place: each batch norm makes room for a new layer, scale and shift taken over where both have.

    Args:
        model: not yet trained.
        normalizer: a name in ``LAYERS``.
        batch: size of the batches that it will be trained with.
    """
    made: dict[int, nn.Module] = {}
    for _, parent, name, norm in [*batch_norms(model)]:
        if id(norm) in made:  # one layer in two places stays one
            setattr(parent, name, made[id(norm)])
            continue
        device = next(iter(norm.parameters()), norm.running_mean)
        layer = LAYERS[normalizer](norm, batch).to(None if device is None else device.device)
        with torch.no_grad():
            for parameter in ("weight", "bias"):
                old, new = getattr(norm, parameter, None), getattr(layer, parameter, None)
                if old is not None and new is not None and old.shape == new.shape:
                    new.copy_(old)
                    new.requires_grad_(old.requires_grad)
        made[id(norm)] = layer
        setattr(parent, name, layer)
