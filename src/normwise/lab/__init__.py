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
    from normwise.lab.running.progress import Progress, Silence
    from normwise.lab.running.session import run
    from normwise.lab.running.workers import TrialFailed

__all__ = ["Description", "Progress", "Silence", "TrialFailed", "describe", "names", "run"]

# Imported when first used: every experiment imports this package, and its numbers must not depend on what runs it.
_DESCRIBED = ("Description", "describe", "names")
_RUNNING = {"Progress": "progress", "Silence": "progress", "TrialFailed": "workers", "run": "session"}


def __getattr__(name: str) -> object:
    if name in _DESCRIBED:
        return getattr(_import_module("normwise.lab.experiment"), name)
    if name in _RUNNING:
        return getattr(_import_module(f"normwise.lab.running.{_RUNNING[name]}"), name)
    raise AttributeError(f"module 'normwise.lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
