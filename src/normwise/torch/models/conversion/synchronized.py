"""A whole model's batch norms to synchronized ones, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from normwise.errors import NormwiseError
from normwise.torch.layers.class_change import PLAIN, Kind, make_plain, norms_to_join, reason_against, synchronize
from normwise.torch.layers.frozen import unfrozen
from normwise.torch.layers.sync_batch_norm import SyncBatchNorm
from normwise.torch.models.model_checks import check_model, out_of_reach, why_fixed
from normwise.torch.models.transaction import transaction


class SyncConversion(NamedTuple):
    """The result of a conversion to synchronized layers, or from them.

    Attributes:
        model: the model that was given.
        layers: the names of the layers that were converted; a layer with several names has all of them here.
        left: the names of the layers that were not, with the reason.
    """

    model: nn.Module
    layers: list[str]
    left: dict[str, str]

    def __str__(self) -> str:
        """The numbers of layers and the reasons, without the model."""
        return f"{len(self.layers)} batch norms converted, {len(self.left)} left{_why(self.left)}"


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
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        NormwiseError: there is no layer to convert.

    Example:
        >>> from torch import nn
        >>> from normwise.torch import BatchNorm1d, convert_to_synchronized
        >>> model = nn.Sequential(nn.Linear(4, 8), BatchNorm1d(8, activation="relu"))
        >>> convert_to_synchronized(model).layers
        ['1']
        >>> model[1].activation
        'relu'
    """
    found = synchronized(model, process_group, "convert_to_synchronized")
    if not found.layers:
        raise NormwiseError(f"{type(model).__name__} has no batch norm to synchronize{_why(found.left)}.")
    return found


def synchronized(model: nn.Module, process_group: Any, called: str) -> SyncConversion:
    """Do what ``convert_to_synchronized`` does, for a model without batch norms too."""
    check_model(model, called=called)
    layers, left = list[str](), out_of_reach(model)
    done, fixed = set[nn.Module](), why_fixed(model, replaced=False)
    with transaction(model):
        for name, module in norms_to_join(model):
            reason = None if module in done else fixed.get(id(module)) or reason_against(module)
            if reason is not None:
                left[name] = reason
                continue
            if module not in done:
                synchronize(module, name, process_group, SyncBatchNorm)
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
        UnsuitableModel: not a ``torch.nn.Module``, or one that torch.jit or torch.export made.
        TypeError: ``plain`` is no plain batch norm.
        NormwiseError: there is no layer to convert.

    Example:
        >>> from torch import nn
        >>> from normwise.torch import convert_from_synchronized, convert_to_synchronized
        >>> model = nn.Sequential(nn.BatchNorm2d(8))
        >>> _ = convert_to_synchronized(model)
        >>> convert_from_synchronized(model).layers, type(model[0])
        (['0'], <class 'torch.nn.modules.batchnorm.BatchNorm2d'>)
    """
    if plain is not None and plain not in PLAIN:
        received = plain.__name__ if isinstance(plain, type) else repr(plain)
        raise TypeError(f"plain must be a BatchNorm1d, 2d or 3d, received {received}: pass the class itself.")
    check_model(model, called="convert_from_synchronized")
    layers, left = list[str](), dict[str, str]()
    done = set[nn.Module]()
    with transaction(model):
        for name, module in norms_to_join(model):
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
                with unfrozen(module):  # a frozen one stays so
                    make_plain(module, kind)
                done.add(module)
                layers.append(name)
        if not layers:
            raise NormwiseError(f"{type(model).__name__} has no synchronized batch norm to make plain{_why(left)}.")
    return SyncConversion(model, layers, left)


def _why(left: dict[str, str]) -> str:
    """Each reason once, with the layers that it is for, the first of them by name."""
    names: dict[str, list[str]] = {}
    for name, reason in left.items():
        names.setdefault(reason, []).append(name or "itself")
    more = {reason: f" and {len(those) - 1} more" * (len(those) > 1) for reason, those in names.items()}
    return "".join(f" ({those[0]}{more[reason]}: {reason})" for reason, those in names.items())


SyncBatchNorm._convert = staticmethod(synchronized)
