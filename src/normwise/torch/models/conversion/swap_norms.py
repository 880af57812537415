"""The layer that takes the place of another one where a model is to be normalized in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _LazyNormBase

from normwise.frameworks import with_article
from normwise.kernels.reference_group import number_of_groups
from normwise.torch.layers.batch_renorm import BatchRenorm, BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from normwise.torch.layers.class_change import reason_against as reason_against_joining
from normwise.torch.layers.class_change import synchronize
from normwise.torch.layers.counterparts import OURS, THEIRS, become_normwise, become_per_domain, take_over
from normwise.torch.layers.ghost_batch_norm import GhostBatchNorm, GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from normwise.torch.layers.group_norm import GroupNorm
from normwise.torch.layers.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from normwise.torch.layers.per_domain import PerDomain
from normwise.torch.layers.per_domain import reason_against as reason_against_domains
from normwise.torch.layers.sync_batch_norm import SyncBatchNorm
from normwise.torch.layers.tracked import unlike_torch

GHOSTS: dict[str, type[nn.Module]] = {"1d": GhostBatchNorm1d, "2d": GhostBatchNorm2d, "3d": GhostBatchNorm3d}
RENORMS: dict[str, type[nn.Module]] = {"1d": BatchRenorm1d, "2d": BatchRenorm2d, "3d": BatchRenorm3d}
INSTANCES: dict[str, type[nn.Module]] = {"1d": InstanceNorm1d, "2d": InstanceNorm2d, "3d": InstanceNorm3d}
OF_A_BATCH = ("running_mean", "running_var", "num_batches_tracked", "running_count")


@dataclass(frozen=True)
class Settings:
    """The settings that the layers are made with; None where one was not given."""

    num_groups: int | None = None
    virtual_batch_size: int | None = None
    num_splits: int | None = None
    process_group: Any = None
    domains: tuple[str, ...] = ()
    domain: str | None = None


class NotPossible(Exception):
    """Why a layer stays as it is."""


Change = Callable[[], str]


def change_to(to: str, name: str, norm: Any, settings: Settings, axes: int | None = None) -> Change:
    """A function that makes a layer another one, in place, and returns what is to be known of it.

    Args:
        to: the kind of layer.
        name: the layer's, in its model.
        norm: the layer.
        settings: what the new one is made with.
        axes: how many axes its inputs have, the batch's included; None where that is not known.

    Raises:
        NotPossible: with the reason; nothing has been changed.
    """
    if isinstance(norm, _LazyNormBase) and type(norm).__name__.startswith("Lazy"):
        raise NotPossible("it is lazy and has not seen its first input")
    if "forward" in vars(norm):
        raise NotPossible("its forward was replaced on the instance")
    if to == "domains":
        return _to_domains(norm, settings)
    if isinstance(norm, PerDomain):
        raise NotPossible(
            f"it has statistics for {', '.join(norm.domains)}: choose one with convert_from_domains first"
        )
    if to == "sync":
        return _to_synchronized(name, norm, settings)
    if type(norm) not in OURS and type(norm) not in THEIRS and unlike_torch(norm) is None:
        raise NotPossible(f"{type(norm).__name__} is a class of its own, which may do something else")
    if to in ("ghost", "renorm"):
        return _to_another_training(to, norm, settings)
    channels = _channels(norm)
    if to == "group":
        groups = number_of_groups(channels, settings.num_groups)
        _check_values(axes, channels // groups)
        asked = "" if settings.num_groups in (None, groups) else f"; {settings.num_groups} do not divide {channels}"
        return _to_groups(norm, groups, f"{_of(groups, 'group')} of {_of(channels // groups, 'channel')}{asked}")
    if to == "layer":
        _check_values(axes, channels)
        return _to_groups(
            norm, 1, "one group: layer norm of a sample's channels and positions, with a scale per channel"
        )
    return _to_instance(norm, channels, axes)


def moments_differ(to: str) -> bool:
    """True if such layers compute something else at inference than those they replace, which can be calibrated."""
    return to in ("group", "layer", "instance")


def _to_groups(norm: Any, groups: int, words: str) -> Change:
    if isinstance(norm, nn.GroupNorm) and norm.num_groups == groups:
        raise NotPossible(f"it is a group norm of {_of(groups, 'group')} already")
    made = GroupNorm(groups, _channels(norm), norm.eps, affine=False, activation=_activation(norm))
    made.affine = _affine(norm)

    def change() -> str:
        take_over(norm, made)
        return words

    return change


def _check_values(axes: int | None, channels: int) -> None:
    """Refuse to normalize single values.

    Raises:
        NotPossible: there is nothing to take the moments of.
    """
    if axes == 2 and channels == 1:
        raise NotPossible("its inputs are (N, C), where every group of one channel of a sample is a single value")


def _to_instance(norm: Any, channels: int, axes: int | None) -> Change:
    if isinstance(norm, nn.modules.instancenorm._InstanceNorm) and not norm.track_running_stats:
        raise NotPossible("it is an instance norm already")
    _check_values(axes, 1)
    kind = INSTANCES.get(type(norm).__name__[-2:]) or INSTANCES.get({3: "1d", 4: "2d", 5: "3d"}.get(axes or 0, ""))
    if kind is None or (kind is InstanceNorm1d and axes is None):
        raise NotPossible(
            "an instance norm takes (N, C) for one sample of (C, L), and of which shape its inputs are shows in "
            "batches only: pass calibrate=, or swap it to 'layer'"
        )
    made: Any = kind(channels, norm.eps, activation=_activation(norm))
    made.affine = _affine(norm)

    def change() -> str:
        take_over(norm, made)
        return ""

    return change


def _to_another_training(to: str, norm: Any, settings: Settings) -> Change:
    """Virtual batches or renormalization: inference and what it rests on stay."""
    kind, kinds = (GhostBatchNorm, GHOSTS) if to == "ghost" else (BatchRenorm, RENORMS)
    axes = type(norm).__name__[-2:]
    if isinstance(norm, kind):
        raise NotPossible(f"it is a {type(norm).__name__} already")
    if isinstance(norm, nn.SyncBatchNorm | SyncBatchNorm):
        raise NotPossible("it is synchronized: make it plain with convert_from_synchronized first")
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or unlike_torch(norm) or axes not in kinds:
        raise NotPossible(
            f"{with_article(type(norm).__name__)} has no statistics of batches that a {to} norm could go on with"
        )
    own: dict[str, Any] = {"activation": _activation(norm), "estimator": getattr(norm, "estimator", None)}
    own["on_tiny_batch"] = getattr(norm, "on_tiny_batch", "error")
    if to == "ghost":
        own |= {"virtual_batch_size": settings.virtual_batch_size, "num_splits": settings.num_splits}
    elif not norm.track_running_stats:
        raise NotPossible("it keeps no running statistics, towards which batch renormalization corrects")
    device = next((tensor.device for tensor in (*norm.parameters(), *norm.buffers())), None)
    made: Any = kinds[axes](_channels(norm), norm.eps, norm.momentum, False, norm.track_running_stats, device, **own)
    made.affine, made._follows_momentum = norm.affine, getattr(norm, "_follows_momentum", False)

    def change() -> str:
        if type(norm) in OURS:
            become_normwise(norm)  # its statistics are kept as ours are
        take_over(norm, made, carry=OF_A_BATCH)
        return "the same in inference"

    return change


def _to_synchronized(name: str, norm: Any, settings: Settings) -> Change:
    reason = "it is synchronized already" if isinstance(norm, SyncBatchNorm) else reason_against_joining(norm)
    if reason is not None:
        raise NotPossible(reason)

    def change() -> str:
        synchronize(norm, name, settings.process_group, SyncBatchNorm)
        return "the same in inference"

    return change


def _to_domains(norm: Any, settings: Settings) -> Change:
    if isinstance(norm, PerDomain):
        raise NotPossible(f"it has the domains {', '.join(norm.domains)} already")
    reason = reason_against_domains(norm)
    if reason is not None:
        raise NotPossible(f"{reason}, so nothing in it can differ by domain")

    def change() -> str:
        become_per_domain(norm, settings.domains, default=settings.domain)
        return f"{', '.join(settings.domains)}, which start from the same statistics"

    return change


def _channels(norm: Any) -> int:
    """The number of channels that the layer has a scale for.

    Raises:
        NotPossible: it has none for channels.
    """
    if isinstance(norm, nn.LayerNorm):
        shape = " x ".join(map(str, norm.normalized_shape))
        raise NotPossible(f"its scale and shift are one for each of {shape} elements, and not one for each channel")
    return int(norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features)


def _of(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _activation(norm: nn.Module) -> str | None:
    return getattr(norm, "activation", None)


def _affine(norm: Any) -> bool:
    return bool(norm.affine)
