"""Batch normalization for people who train and ship networks with PyTorch or Keras.

Importing this package brings in no framework: the rooms are imported when they are first used. Nor does it import
anything else that takes time, so that the command line is there at once.
"""

from importlib import import_module as _import_module

from normwise.moved import install as _install

TYPE_CHECKING = False  # as type checkers read it: importing `typing` for it takes longer than all of this file
if TYPE_CHECKING:
    from normwise.surgery import adapt, adapting, fuse, param_groups, paused_statistics, recalibrate

    __version__: str
del TYPE_CHECKING

__all__ = ["adapt", "adapting", "fuse", "param_groups", "paused_statistics", "recalibrate"]

_DOORS = {
    "adapt": "surgery",
    "adapting": "surgery",
    "fuse": "surgery",
    "param_groups": "surgery",
    "paused_statistics": "surgery",
    "recalibrate": "surgery",
}

_ROOMS = ("callbacks", "errors", "estimators", "keras", "lab", "testing", "torch")

_install()  # names of modules that moved


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _import_module("importlib.metadata").version("normwise")
    if name in _ROOMS:
        return _import_module(f"normwise.{name}")
    if name not in _DOORS:
        raise AttributeError(f"module 'normwise' has no attribute {name!r}")
    return getattr(_import_module(f"normwise.{_DOORS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS, *_ROOMS, "__version__"})
