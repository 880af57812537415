"""Batch normalization for people who train and ship networks with PyTorch or Keras.

Importing this package brings in no framework: the rooms are imported when they are first used.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from normwise.surgery import adapt, adapting, fuse, param_groups, paused_statistics, recalibrate

__version__ = _version("normwise")

__all__ = ["adapt", "adapting", "fuse", "param_groups", "paused_statistics", "recalibrate"]

_DOORS = {
    "adapt": "surgery",
    "adapting": "surgery",
    "fuse": "surgery",
    "param_groups": "surgery",
    "paused_statistics": "surgery",
    "recalibrate": "surgery",
}


def __getattr__(name: str) -> object:
    if name not in _DOORS:
        raise AttributeError(f"module 'normwise' has no attribute {name!r}")
    return getattr(_import_module(f"normwise.{_DOORS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
