"""The doctor: what normalization does wrong in a model, in which layer, with the number that proves it."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from normwise.doctor.check import names
    from normwise.doctor.diagnosis import Diagnosis
    from normwise.doctor.examination import examine
    from normwise.doctor.finding import Finding, Severity, Skipped

__all__ = ["Diagnosis", "Finding", "Severity", "Skipped", "examine", "names"]

_DOORS = {
    "Diagnosis": "diagnosis",
    "Finding": "finding",
    "Severity": "finding",
    "Skipped": "finding",
    "examine": "examination",
    "names": "check",
}


def __getattr__(name: str) -> object:
    if name not in _DOORS:
        raise AttributeError(f"module 'normwise.doctor' has no attribute {name!r}")
    return getattr(_import_module(f"normwise.doctor.{_DOORS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
