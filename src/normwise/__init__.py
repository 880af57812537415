"""Batch normalization for people who train and ship networks with PyTorch or Keras.

Importing this package brings in no framework: the rooms are imported when they are first used. Nor does it import
anything else that takes time, so that the command line is there at once.
"""

from importlib import import_module as _import_module

from normwise.moved import install as _install

TYPE_CHECKING = False  # as type checkers read it: importing `typing` for it takes longer than all of this file
if TYPE_CHECKING:
    from normwise.surgery.diagnosis import examine
    from normwise.surgery.inference import fold, freeze, unfreeze
    from normwise.surgery.keras_layers import convert_from_keras, convert_to_keras
    from normwise.surgery.layers import (
        convert_from_domains,
        convert_from_synchronized,
        convert_to_domains,
        convert_to_synchronized,
        fuse,
    )
    from normwise.surgery.other_layers import swap
    from normwise.surgery.statistics import paused_statistics, pool_statistics, statistics_from
    from normwise.surgery.statistics_of_data import adapt, adapting, recalibrate
    from normwise.surgery.training import accumulate_gradients, forward_together, param_groups, save_memory

    __version__: str
del TYPE_CHECKING

# The doors: what takes a whole model. All of them are in `surgery`, which comes in when one is first used.
__all__ = [
    "accumulate_gradients",
    "adapt",
    "adapting",
    "convert_from_domains",
    "convert_from_keras",
    "convert_from_synchronized",
    "convert_to_domains",
    "convert_to_keras",
    "convert_to_synchronized",
    "examine",
    "fold",
    "forward_together",
    "freeze",
    "fuse",
    "param_groups",
    "paused_statistics",
    "pool_statistics",
    "recalibrate",
    "save_memory",
    "statistics_from",
    "swap",
    "unfreeze",
]

_ROOMS = ("callbacks", "doctor", "errors", "estimators", "keras", "lab", "process_memory", "testing", "torch")

_install()  # names of modules that moved


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _import_module("importlib.metadata").version("normwise")
    if name in _ROOMS:
        return _import_module(f"normwise.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'normwise' has no attribute {name!r}")
    return getattr(_import_module("normwise.surgery"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS, "__version__"})
