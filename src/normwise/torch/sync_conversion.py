"""A whole model's batch norms to synchronized ones, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from normwise.errors import NormwiseError
from normwise.torch.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normwise.torch.conversion_guard import beyond_torch
from normwise.torch.domains import PerDomain
from normwise.torch.fused_batchnorm import FusedBatchNorm
from normwise.torch.ghost import FusedGhostBatchNorm
from normwise.torch.renorm import FusedBatchRenorm
from normwise.torch.synchronized import SyncBatchNorm
from normwise.torch.transaction import transaction
from normwise.torch.whitening import FusedWhitening

Kind = type[nn.Module]
OURS: dict[Kind, Kind] = {nn.BatchNorm1d: BatchNorm1d, nn.BatchNorm2d: BatchNorm2d, nn.BatchNorm3d: BatchNorm3d}
CONVERTED = {*OURS, *OURS.values(), nn.SyncBatchNorm}
LEFT: dict[Kind, str] = {
    PerDomain: "it keeps statistics for each domain, and which one a batch is of may differ between processes",
    FusedGhostBatchNorm: "it takes parts of a batch for themselves, which joining batches would undo",
    FusedBatchRenorm: "it corrects each batch by the running statistics, which is another remedy for small ones",
    FusedWhitening: "it whitens by a covariance, and only means and variances are joined",
    SyncBatchNorm: "it is synchronized already",
    _LazyNormBase: "it has not seen an input yet",
}


class SyncConversion(NamedTuple):
    """What became of a model.

    Attributes:
        model: the model that was given.
        layers: the names of the layers that were converted; a layer with several names has all of them here.
        left: the names of the layers that were not, with the reason.
    """

    model: nn.Module
    layers: list[str]
    left: dict[str, str]


def convert_to_synchronized(model: nn.Module, process_group: Any = None) -> SyncConversion:
    """Let every plain batch norm of a model, normwise's or torch's, take the batches of all processes for one.

    In place: the layers themselves, their parameters and buffers, modes, hooks, devices and dtypes stay, and so do
    activations, estimators and policies. On any error the model is as before.

    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` would build new layers without what torch's do not have; where
    something would be lost so, normwise's layers refuse it.

    Args:
        model: before it is wrapped in ``DistributedDataParallel``.
        process_group: whose batches are taken together; None for all processes, and for what a
            ``torch.nn.SyncBatchNorm`` has.

    Raises:
        NormwiseError: there is no layer to convert.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), BatchNorm1d(8, activation="relu"))
        >>> convert_to_synchronized(model).layers
        ['1']
        >>> model[1].activation
        'relu'
    """
    found = synchronized(model, process_group)
    if not found.layers:
        raise NormwiseError(f"{type(model).__name__} has no batch norm to synchronize{_why(found.left)}.")
    return found


def synchronized(model: nn.Module, process_group: Any = None) -> SyncConversion:
    """As ``convert_to_synchronized``, but a model without batch norms is as good as any."""
    layers, left = list[str](), dict[str, str]()
    done = set[nn.Module]()
    with transaction(model):
        for name, module in _norms(model):
            reason = None if module in done else _reason_against(module)
            if reason is not None:
                left[name] = reason
                continue
            if module not in done:
                _synchronize(module, name, process_group)
                done.add(module)
            layers.append(name)
    return SyncConversion(model, layers, left)


def convert_from_synchronized(model: nn.Module, *, plain: Kind | None = None) -> SyncConversion:
    """Make synchronized batch norms plain again, for one process: to ship a model, to export it, or to debug it.

    In place, as ``convert_to_synchronized`` does it. A layer that was converted becomes what it was.

    Args:
        model: with normwise's or torch's ``SyncBatchNorm``.
        plain: what the layers become that were never anything else, for example ``normwise.torch.BatchNorm2d``; without
            it they are left.

    Raises:
        TypeError: ``plain`` is no plain batch norm.
        NormwiseError: there is no layer to convert.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm2d(8))
        >>> _ = convert_to_synchronized(model)
        >>> convert_from_synchronized(model).layers, type(model[0])
        (['0'], <class 'torch.nn.modules.batchnorm.BatchNorm2d'>)
    """
    if plain is not None and plain not in CONVERTED - {nn.SyncBatchNorm}:
        received = plain.__name__ if isinstance(plain, type) else repr(plain)
        raise TypeError(f"plain must be a BatchNorm1d, 2d or 3d, received {received}: pass the class itself.")
    layers, left = list[str](), dict[str, str]()
    done = set[nn.Module]()
    with transaction(model):
        for name, module in _norms(model):
            if module in done:
                layers.append(name)
            elif isinstance(module, SyncBatchNorm | nn.SyncBatchNorm):
                kind = getattr(module, "_was", None)
                kind = plain if kind in (None, nn.SyncBatchNorm) else kind
                if kind is None:
                    left[name] = (
                        "it was made as one, for any number of axes: say with plain=BatchNorm2d what it is to become"
                    )
                    continue
                _make_plain(module, kind)
                done.add(module)
                layers.append(name)
        if not layers:
            raise NormwiseError(f"{type(model).__name__} has no synchronized batch norm to make plain{_why(left)}.")
    return SyncConversion(model, layers, left)


def _norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """By every name that they have; not what is inside of a layer per domain."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(isinstance(each, PerDomain) and name.startswith(f"{outer}.") for outer, each in found)
        if not inside and isinstance(module, _BatchNorm | PerDomain):
            found.append((name, module))
    return found


def _reason_against(module: nn.Module) -> str | None:
    if type(module) in CONVERTED:
        return "its forward was replaced on the instance" if "forward" in vars(module) else None
    for kind, reason in LEFT.items():
        if isinstance(module, kind):
            return reason
    return f"it is a {type(module).__name__}, not exactly a BatchNorm1d, 2d or 3d"


def _synchronize(module: Any, name: str, process_group: Any) -> None:
    """The module itself gets another class, so that all that refers to it still does."""
    was = type(module)
    group = module.__dict__.pop("process_group", None)  # of torch's, where it is no property
    module.__class__ = SyncBatchNorm
    module._was, module._place = was, name
    module.process_group = group if process_group is None else process_group
    if not issubclass(was, FusedBatchNorm):
        with torch.device("cpu"):
            module._settle(None, None)


def _make_plain(module: Any, kind: Kind) -> None:
    """To a class of torch's only where there is nothing that it does not have."""
    if issubclass(type(module), SyncBatchNorm):
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
    if issubclass(kind, FusedBatchNorm):
        with torch.device("cpu"):
            module._settle(None, None)


def _why(left: dict[str, str]) -> str:
    return "".join(f" ({name or 'itself'}: {reason})" for name, reason in left.items())
