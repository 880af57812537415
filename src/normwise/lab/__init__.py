"""The lab: claims that are taught about batch normalization, re-run on real data, each with a verdict.

``names`` and ``describe`` read files only, so that listing is instantaneous; ``run`` needs the extra ``lab``.

Example:
    >>> from normwise import lab
    >>> "does_it_train_faster" in lab.names()
    True
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from normwise.lab.experiment import Description, describe, names
    from normwise.lab.progress import Progress, Silence
    from normwise.lab.running import run
    from normwise.lab.workers import TrialFailed

__all__ = ["Description", "Progress", "Silence", "TrialFailed", "describe", "names", "run"]

# Imported when first used: every experiment imports this package, and its numbers must not depend on what runs it.
_DOORS = {
    "Description": "experiment",
    "Progress": "progress",
    "Silence": "progress",
    "TrialFailed": "workers",
    "describe": "experiment",
    "names": "experiment",
    "run": "running",
}


def __getattr__(name: str) -> object:
    if name not in _DOORS:
        raise AttributeError(f"module 'normwise.lab' has no attribute {name!r}")
    return getattr(_import_module(f"normwise.lab.{_DOORS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
