"""The layers of ``torch.nn`` that do what those of normwise do, and the change of class from one to the other.

The module itself gets another class, so that all that refers to it stays: hooks, optimizers, the model around it, the
keys of its ``state_dict``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from normwise.torch.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from normwise.torch.layers.batch_renorm import BatchRenorm, BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from normwise.torch.layers.class_change import synchronize
from normwise.torch.layers.ghost_batch_norm import GhostBatchNorm, GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from normwise.torch.layers.group_norm import GroupNorm
from normwise.torch.layers.instance_norm import (
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LazyInstanceNorm1d,
    LazyInstanceNorm2d,
    LazyInstanceNorm3d,
    TrackedInstanceNorm,
)
from normwise.torch.layers.layer_norm import LayerNorm
from normwise.torch.layers.lazy_batch_norm import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.layers.sync_batch_norm import SyncBatchNorm
from normwise.torch.layers.tracked import TrackedBatchNorm, unlike_torch
from normwise.torch.steps.buffers import STATISTICS

Kind = type[nn.Module]
OURS: dict[Kind, Kind] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.SyncBatchNorm: SyncBatchNorm,
    nn.LazyBatchNorm1d: LazyBatchNorm1d,
    nn.LazyBatchNorm2d: LazyBatchNorm2d,
    nn.LazyBatchNorm3d: LazyBatchNorm3d,
    nn.GroupNorm: GroupNorm,
    nn.LayerNorm: LayerNorm,
    nn.InstanceNorm1d: InstanceNorm1d,
    nn.InstanceNorm2d: InstanceNorm2d,
    nn.InstanceNorm3d: InstanceNorm3d,
    nn.LazyInstanceNorm1d: LazyInstanceNorm1d,
    nn.LazyInstanceNorm2d: LazyInstanceNorm2d,
    nn.LazyInstanceNorm3d: LazyInstanceNorm3d,
}
# The variants of training compute at inference what a plain batch norm does.
THEIRS: dict[Kind, Kind] = {
    **{ours: theirs for theirs, ours in OURS.items()},
    GhostBatchNorm1d: nn.BatchNorm1d,
    GhostBatchNorm2d: nn.BatchNorm2d,
    GhostBatchNorm3d: nn.BatchNorm3d,
    BatchRenorm1d: nn.BatchNorm1d,
    BatchRenorm2d: nn.BatchNorm2d,
    BatchRenorm3d: nn.BatchNorm3d,
}
# What a plain module has of its own. A change of class leaves it; only buffers are another's.
_OF_EVERY_MODULE = {*vars(nn.Module())} - {"_buffers", "_non_persistent_buffers_set"}
_BEYOND_TORCH = (
    *("activation", "estimator", "on_tiny_batch", "_follows_momentum", "_met", "_fused", "_paused"),
    *("_was", "_place", "_group", "sizes", "order", "schedule"),
)
_BUFFERS_BEYOND_TORCH = ("running_count", "num_batches_skipped", "r", "d", "clipped")


def reason_against_torch(layer: nn.Module, kind: Kind | None = None) -> str | None:
    """Why a layer of normwise cannot become one of ``torch.nn``, or of ``kind``, or None where it can."""
    if kind is not None or type(layer) in THEIRS:
        if "forward" in vars(layer):
            return "its forward was replaced on the instance"
        too_large = [name for name in STATISTICS if not _fits(layer, name)]
        if too_large:
            return f"its {too_large[0]} does not fit {_dtype(layer)}, in which torch.nn keeps it: call float() before"
        return None
    if (unlike := unlike_torch(layer)) is not None:
        return f"a {type(layer).__name__} {unlike}, which no layer of torch.nn does: keep normwise there"
    return f"{type(layer).__name__} is a class of its own, which may do something else: change it by hand"


def become_torch(layer: Any, kind: Kind | None = None) -> str:
    """Make a layer of normwise the one of ``torch.nn``; parameters and buffers stay the very same.

    Its activation is lost: see to it before.

    Args:
        layer: of a class in ``THEIRS`` that ``reason_against_torch`` has nothing against.
        kind: the class that it gets; None for that in ``THEIRS``.

    Returns:
        what is different from now on, in words.

    Example:
        >>> layer = GhostBatchNorm1d(4, num_splits=2)
        >>> become_torch(layer)
        'the same in inference; in training it normalizes by the whole batch and not by virtual batches'
        >>> type(layer)
        <class 'torch.nn.modules.batchnorm.BatchNorm1d'>
    """
    words, kind = _lost(layer), kind or THEIRS[type(layer)]
    group = layer.process_group if isinstance(layer, SyncBatchNorm) else None
    if isinstance(layer, SyncBatchNorm) and layer._was is not None:
        kind = THEIRS.get(layer._was, layer._was)
    narrow = _dtype(layer)
    for name in _BEYOND_TORCH:
        vars(layer).pop(name, None)
    for name in _BUFFERS_BEYOND_TORCH:
        layer._buffers.pop(name, None)
        layer._non_persistent_buffers_set.discard(name)
    layer.__class__ = kind
    if kind is nn.SyncBatchNorm:
        layer.process_group = group
    for name in STATISTICS:
        buffer = layer._buffers.get(name)
        if buffer is not None and not is_lazy(buffer) and narrow is not None and buffer.dtype != narrow:
            layer._buffers[name] = buffer.to(narrow)
    return words


def become_normwise(layer: Any) -> None:
    """Make a layer of ``torch.nn`` the one of normwise; parameters and buffers stay the very same.

    Args:
        layer: of a class in ``OURS``.

    Example:
        >>> layer = nn.GroupNorm(2, 4)
        >>> become_normwise(layer)
        >>> type(layer)
        <class 'normwise.torch.layers.group_norm.GroupNorm'>
    """
    kind = OURS[type(layer)]
    if kind is SyncBatchNorm:
        synchronize(layer, "", None, SyncBatchNorm)
        layer._place = None
        return
    layer.__class__ = kind
    with torch.device("cpu"):
        if isinstance(layer, TrackedBatchNorm):
            layer._settle(None, None)
        elif isinstance(layer, TrackedInstanceNorm):
            layer._settle(None)
        else:
            layer.activation = None


def take_over(layer: Any, other: Any, *, carry: tuple[str, ...] = ()) -> None:
    """Make a layer what another one is: its class, settings and buffers; hooks, mode and parameters stay.

    Args:
        layer: changed.
        other: nothing of it is used afterwards.
        carry: the buffers that stay the very same, where both have them.
    """
    theirs, fused = vars(other), getattr(layer, "_fused", False)
    kept = {name: layer._buffers[name] for name in carry if name in layer._buffers and name in other._buffers}
    for name in [name for name in vars(layer) if name not in _OF_EVERY_MODULE and name not in theirs]:
        del vars(layer)[name]
    layer.__class__ = type(other)
    for name, value in theirs.items():
        if name not in _OF_EVERY_MODULE:
            vars(layer)[name] = value
    layer._buffers.update(kept)
    if fused and hasattr(type(other), "_fused"):
        layer._fused = True  # what `fuse` wrote still calls it


def become_domain(layer: Any, domain: str) -> None:
    """Make a layer with statistics per domain the layer of one of them.

    Args:
        layer: a ``PerDomain``.
        domain: one that it has.

    Example:
        >>> layer = PerDomain(nn.BatchNorm1d(4), ["day", "night"])
        >>> become_domain(layer, "day")
        >>> layer
        BatchNorm1d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """
    one = layer.of(domain)
    layer._modules.clear()
    layer._parameters.update(one._parameters)
    for hooks in (layer._state_dict_hooks, layer._load_state_dict_post_hooks):
        for key in [key for key, hook in hooks.items() if getattr(hook, "__module__", "") == PerDomain.__module__]:
            del hooks[key]
    take_over(layer, one)


def become_per_domain(layer: Any, domains: Iterable[str], *, default: str | None = None) -> None:
    """Make a layer with running statistics one with a set of them per domain, all starting from what it has.

    Args:
        layer: that ``PerDomain`` can be made of.
        domains: their names.
        default: the domain where none is chosen.

    Example:
        >>> layer = nn.BatchNorm1d(4)
        >>> become_per_domain(layer, ["day", "night"])
        >>> layer.domains
        ('day', 'night')
    """
    several: Any = PerDomain(layer, domains, default=default)
    take_over(layer, several)
    layer._modules.update(several._modules)
    layer._state_dict_hooks.update(several._state_dict_hooks)
    layer._load_state_dict_post_hooks.update(several._load_state_dict_post_hooks)


def _lost(layer: Any) -> str:
    """A clause on what a layer of normwise does and torch's layer will not; empty where there is nothing."""
    words = []
    if isinstance(layer, GhostBatchNorm):
        words.append("in training it normalizes by the whole batch and not by virtual batches")
    if isinstance(layer, BatchRenorm):
        words.append("in training it normalizes by the batch alone, without the correction of batch renormalization")
    if getattr(layer, "estimator", None) is not None:
        words.append(f"in training its running statistics follow torch's rule and not {layer._estimator()!r}")
    if getattr(layer, "running_count", None) is not None:
        words.append("its running_count leaves the state_dict")
    if getattr(layer, "on_tiny_batch", "error") != "error":
        words.append(
            f"in training it refuses one value per channel, which on_tiny_batch={layer.on_tiny_batch!r} did not"
        )
    return f"the same in inference; {'; '.join(words)}" if words else ""


def _dtype(layer: nn.Module) -> torch.dtype | None:
    """The dtype of a layer's parameters, in which torch's operator wants the statistics; None without parameters."""
    return next((parameter.dtype for parameter in layer._parameters.values() if parameter is not None), None)


def _fits(layer: nn.Module, name: str) -> bool:
    buffer, dtype = layer._buffers.get(name), _dtype(layer)
    if buffer is None or is_lazy(buffer) or dtype is None or buffer.is_meta or buffer.dtype == dtype:
        return True
    return bool((buffer.to(dtype).isfinite() == buffer.isfinite()).all())
