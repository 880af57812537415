"""A batch norm of a model becomes another one: the module itself gets another class, so all that refers to it stays."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from normwise.torch.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normwise.torch.layers.conversion_guard import beyond_torch
from normwise.torch.layers.frozen import FrozenStatistics
from normwise.torch.layers.tracked import TrackedBatchNorm

Kind = type[nn.Module]
OURS: dict[Kind, Kind] = {nn.BatchNorm1d: BatchNorm1d, nn.BatchNorm2d: BatchNorm2d, nn.BatchNorm3d: BatchNorm3d}
PLAIN = {*OURS, *OURS.values()}


def become_ours(norm: Any, activation: str | None = None) -> None:
    """Make PyTorch's batch norm normwise's own; parameters and buffers stay the very same.

    Args:
        norm: of a class in ``OURS``.
        activation: what it does from now on.
    """
    norm.__class__ = OURS[type(norm)]
    with torch.device("cpu"):
        norm._settle(activation, None)


def norms_to_join(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Batch norms by every name that they have; not what is inside of a layer that cannot be joined as a whole."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(
            not isinstance(each, _BatchNorm) and name.startswith(f"{outer}." if outer else "") for outer, each in found
        )
        if not inside and (isinstance(module, _BatchNorm) or getattr(module, "why_not_joined", None)):
            found.append((name, module))
    return found


def reason_against(module: nn.Module) -> str | None:
    """Why this batch norm cannot be synchronized, or None."""
    if type(module) in PLAIN or type(module) is nn.SyncBatchNorm:
        return "its forward was replaced on the instance" if "forward" in vars(module) else None
    reason: str | None = getattr(type(module), "why_not_joined", None)
    if reason is not None:
        return reason
    if isinstance(module, FrozenStatistics):
        return "its statistics are frozen: there is nothing to take together"
    if isinstance(module, _LazyNormBase):
        return "it has not seen an input yet"
    return f"it is a {type(module).__name__}, not exactly a BatchNorm1d, 2d or 3d"


def synchronize(module: Any, name: str, process_group: Any, kind: Kind) -> None:
    """Make a plain batch norm a synchronized one.

    Args:
        module: a plain batch norm, normwise's or torch's, or torch's own synchronized one.
        name: in its model, for errors.
        process_group: whose batches are taken together; None for what the module has.
        kind: the class that it gets, ``SyncBatchNorm``.
    """
    was = type(module)
    group = module.__dict__.pop("process_group", None)  # of torch's, where it is no property
    module.__class__ = kind
    module._was, module._place = was, name
    module.process_group = group if process_group is None else process_group
    if not issubclass(was, TrackedBatchNorm):
        with torch.device("cpu"):
            module._settle(None, None)


def make_plain(module: Any, kind: Kind) -> None:
    """Make a synchronized batch norm a plain one; of a torch class only if that loses nothing.

    Args:
        module: a ``SyncBatchNorm``, normwise's or torch's.
        kind: the class that it gets.
    """
    if issubclass(type(module), TrackedBatchNorm):
        for name in ("_was", "_place", "_group"):
            module.__dict__.pop(name, None)
        if kind in OURS and not beyond_torch(module):
            for name in ("activation", "estimator", "on_tiny_batch", "_follows_momentum", "_met"):
                module.__dict__.pop(name, None)
            for name in ("running_count", "num_batches_skipped"):
                module._buffers.pop(name, None)
                module._non_persistent_buffers_set.discard(name)
            module.__class__ = kind
            return
        module.__class__ = OURS.get(kind, kind)
        return
    module.__dict__.pop("process_group", None)
    module.__class__ = kind
    if issubclass(kind, TrackedBatchNorm):
        with torch.device("cpu"):
            module._settle(None, None)
