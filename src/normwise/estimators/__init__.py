"""Estimators: how running statistics are estimated from the moments of batches; one per file.

A member is found by its file: ``debiased_ema.py`` holds the class ``DebiasedEma``, and its name is ``debiased_ema``.
"""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from normwise.errors import NormwiseError, UnknownName
from normwise.estimators.estimator import Estimator, RunningStatistics, weight_of_window, window_of_weight

__all__ = [
    "Estimator",
    "RunningStatistics",
    "estimator_class",
    "named",
    "names",
    "weight_of_window",
    "window_of_weight",
]


def names() -> list[str]:
    """The names of all estimators, in alphabetical order.

    Example:
        >>> from normwise.estimators import names
        >>> "pooled" in names()
        True
    """
    return sorted(module.name for module in iter_modules(__path__) if module.name != "estimator")


def estimator_class(name: str) -> type[Estimator]:
    """The class of an estimator.

    Raises:
        UnknownName: there is no estimator of that name; the message names the nearest one.

    Example:
        >>> from normwise.estimators import estimator_class
        >>> estimator_class("debiased_ema").__name__
        'DebiasedEma'
    """
    if name not in names():
        raise UnknownName("estimator", name, names())
    found: type[Estimator] = getattr(import_module(f"{__name__}.{name}"), _class_name(name))
    return found


def named(name: str, *, weight_of_new: float | None = None) -> Estimator:
    """The estimator of that name.

    Args:
        name: one of ``names()``.
        weight_of_new: how much a new batch weighs, between 0 and 1; for the estimators that have such a weight.

    Raises:
        UnknownName: there is no estimator of that name.
        NormwiseError: the estimator has settings that only its class can be given.

    Example:
        >>> from normwise.estimators import named
        >>> named("ema", weight_of_new=0.1)
        Ema(weight_of_new=0.1)
    """
    cls = estimator_class(name)
    settings = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # every member is a dataclass
    if settings == ["weight_of_new"]:
        if weight_of_new is None:
            raise NormwiseError(
                f"estimator {name!r} needs the weight of a new batch, received None: state it (momentum in PyTorch)."
            )
        return cls(weight_of_new)  # type: ignore[call-arg]  # the line above saw that this is its only field
    if settings:
        given = ", ".join(f"{setting}=..." for setting in settings)
        raise NormwiseError(
            f"estimator {name!r} has settings, received only its name: "
            f"pass normwise.estimators.{cls.__name__}({given})."
        )
    return cls()


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def __getattr__(attribute: str) -> Any:
    """``normwise.estimators.Pooled`` and the other classes, imported when first used."""
    for name in names():
        if _class_name(name) == attribute:
            return estimator_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
