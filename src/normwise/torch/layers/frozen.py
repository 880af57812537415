"""A layer whose statistics are frozen: the same object with a class above its own, which is never in training mode.

That lies in the class and not in the instance, so that ``copy.deepcopy``, ``pickle``, ``torch.compile`` and what wraps
a model have nothing to lose: whoever asks such a layer for ``training`` gets False, its own forward too. The mode that
the model was put into is kept beside it, and is the layer's again once it is unfrozen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from normwise.errors import NormwiseError
from normwise.torch.layers.conversion_guard import CONVERSION

_classes: WeakValueDictionary[type[nn.Module], type[nn.Module]] = WeakValueDictionary()


class _QConfig:
    """The attribute ``qconfig``, absent until it is set, by which torch's conversion to its ``SyncBatchNorm`` asks."""

    def __get__(self, layer: Any, owner: type) -> Any:
        if layer is None:
            return self
        if sys._getframe(1).f_code is CONVERSION:
            raise NormwiseError(
                "torch.nn.SyncBatchNorm.convert_sync_batchnorm would make a torch.nn.SyncBatchNorm of a frozen layer, "
                f"{type(layer).__name__}({layer.extra_repr()}), whose statistics would move again: build the model "
                "again, of which it has converted a part by now, and use normwise.torch.convert_to_synchronized."
            )
        raise AttributeError(f"{owner.__name__!r} object has no attribute 'qconfig'")


class FrozenStatistics(nn.Module):
    """The first base of a frozen layer's class, before the layer's own class. Not for direct use."""

    qconfig = _QConfig()
    # torch.jit.script takes the mode as it is then, and no property.
    __jit_unused_properties__ = ("training",)

    @property
    def training(self) -> bool:
        """False, whatever was set."""
        return False

    @training.setter
    def training(self, mode: bool) -> None:
        self.__dict__["training"] = mode

    def reset_running_stats(self) -> None:
        """Nothing: ``torch.optim.swa_utils.update_bn`` calls it on every batch norm of a model."""

    def extra_repr(self) -> str:
        """The layer's own line, and that its statistics are frozen."""
        line = super().extra_repr()
        return f"{line}, frozen" if line else "frozen"

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not is_frozen(self):  # another class lies above, which knows how to be pickled or cannot be
            return super().__reduce_ex__(protocol)
        return _blank, (type(self).__bases__[1],), self.__getstate__()


def freeze_statistics(layer: nn.Module) -> None:
    """Give the layer the frozen class above its own.

    Args:
        layer: any module that normalizes by running statistics outside of training mode.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> freeze_statistics(layer)
        >>> type(layer).__name__, isinstance(layer, nn.BatchNorm1d), layer.train().training
        ('FrozenBatchNorm1d', True, False)
    """
    layer.__class__ = _frozen(type(layer))


def unfreeze_statistics(layer: nn.Module) -> None:
    """Give the layer the class back that it had, and the mode that its model was put into last.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> freeze_statistics(layer)
        >>> unfreeze_statistics(layer)
        >>> type(layer).__name__, layer.training
        ('BatchNorm1d', True)
    """
    layer.__class__ = type(layer).__bases__[1]


def is_frozen(layer: nn.Module) -> bool:
    """True if the class of the layer is the frozen one itself, and not a subclass of that.

    Example:
        >>> is_frozen(nn.BatchNorm1d(2))
        False
    """
    return FrozenStatistics in type(layer).__bases__


@contextmanager
def unfrozen(layer: nn.Module) -> Iterator[None]:
    """Give the layer for a block the class that it had; behind it, freeze it again, whatever class it has got."""
    was = is_frozen(layer)
    if was:
        unfreeze_statistics(layer)
    try:
        yield
    finally:
        if was:
            freeze_statistics(layer)


def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    """One class for all layers of a class, so that ``torch.compile`` compiles them once."""
    found = _classes.get(kind)
    if found is None:
        body = {"__module__": str(kind.__module__), "__doc__": kind.__doc__}
        found = _classes[kind] = type(f"Frozen{kind.__name__}", (FrozenStatistics, kind), body)
    return found


def _blank(kind: type[nn.Module]) -> nn.Module:
    """A frozen layer without any state, for pickle and for deepcopy to fill."""
    made = _frozen(kind)
    return made.__new__(made)
