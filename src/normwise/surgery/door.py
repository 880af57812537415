"""The steps of every door: check the keywords, find the model's framework, and call the function of that framework.

A door is a signature and a docstring; ``door`` does the rest. Nothing of a framework is imported before it is used.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache, wraps
from importlib import import_module
from typing import Any, NamedTuple, ParamSpec, TypeVar

from normwise.errors import NothingChanged, UnsuitableModel
from normwise.frameworks import framework_of, instead_of, refusal

Taken = ParamSpec("Taken")
Given = TypeVar("Given")

# Of each framework: its name, and the class that its models have.
FRAMEWORKS = {"torch": ("PyTorch", "torch.nn.Module"), "keras": ("Keras", "keras.Model")}


class Behind(NamedTuple):
    """A function of a framework's room, by name, so that nothing is imported before it is called.

    Attributes:
        module: the full name of its module.
        name: its name there.
    """

    module: str
    name: str

    def function(self) -> Callable[..., Any]:
        """The function itself; this imports its framework."""
        found: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return found


def lazy_import_module(module: str, name: str) -> Behind:
    """A function behind a door.

    It is called as it is because ``lab/reach.py``, which reads imports from the syntax tree, follows a call of this
    name: an experiment that uses a door reaches the function behind it.

    Args:
        module: the full name of its module.
        name: its name there.
    """
    return Behind(module, name)


TABLE: dict[str, Mapping[str, Behind]] = {}
"""The function behind the door, by operation and framework."""


def door(
    *, torch: Behind | None = None, keras: Behind | None = None, moved: str | None = None
) -> Callable[[Callable[Taken, Given]], Callable[Taken, Given]]:
    """Make a door of a function that has a signature and a docstring, and no body.

    The first parameter is the model. A keyword that exists in one framework only is refused with a model of the other,
    unless it has the default value, which asks for nothing.

    Args:
        torch: what is called with a PyTorch model; None where there is no such operation.
        keras: what is called with a Keras model.
        moved: the attribute of the report that is empty where nothing changed, which is worth a warning.
    """
    rooms = {name: behind for name, behind in (("torch", torch), ("keras", keras)) if behind is not None}

    def made(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
        signature, operation = inspect.signature(function), function.__name__
        TABLE[operation] = rooms

        @wraps(function)
        def entered(*args: Taken.args, **kwargs: Taken.kwargs) -> Given:
            refuse_unknown(operation, signature, kwargs)
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # for Python's own sentence, which names the function
            model = next(iter(bound.arguments.values()))
            framework = framework_of(model)
            if framework not in rooms:
                raise _not_for(operation, model, framework, rooms)
            behind = rooms[framework].function()
            for name in [name for name in bound.arguments if name not in _parameters(behind)]:
                if not _same(bound.arguments[name], signature.parameters[name].default):
                    raise _of_another(operation, name, framework, rooms)
                del bound.arguments[name]
            report: Given = behind(*bound.args, **bound.kwargs)
            if moved is not None and not getattr(report, moved) and not getattr(report, "also", ()):
                # A warning reaches users who do not look at the report.
                warnings.warn(str(report), NothingChanged, stacklevel=2)
            return report

        return entered

    return made


def refuse_unknown(operation: str, signature: inspect.Signature, keywords: Mapping[str, object]) -> None:
    """Refuse a keyword that a function does not have; the message has the nearest one that it has.

    Raises:
        TypeError: as Python's own.

    Example:
        >>> refuse_unknown("fit", inspect.signature(lambda *, estimator, layers: None), {"estimater": "ema"})
        Traceback (most recent call last):
        TypeError: fit has no keyword 'estimater': did you mean 'estimator'?
    """
    for name in keywords:
        if name not in signature.parameters:
            has = list(signature.parameters)
            near = get_close_matches(name, has, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(has)}."
            raise TypeError(f"{operation} has no keyword {name!r}: {hint}")


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's parameters; reading them takes longer than the rest of a door."""
    return frozenset(inspect.signature(function).parameters)


def _same(value: object, default: object) -> bool:
    """True if a value asks for no more than the default does; comparing arrays would give an array."""
    return value is default or (type(value) is type(default) and bool(value == default))


def _of_another(operation: str, name: str, framework: str, rooms: Mapping[str, Behind]) -> TypeError:
    owners = " and ".join(FRAMEWORKS[other][0] for other in rooms if other != framework)
    kind = f"a {FRAMEWORKS[framework][0]} model"
    return TypeError(f"{operation} takes {name} for {owners} models only, received it with {kind}: leave it out.")


def _not_for(operation: str, model: object, framework: str | None, rooms: Mapping[str, Behind]) -> UnsuitableModel:
    names, classes = (" or ".join(part) for part in zip(*(FRAMEWORKS[name] for name in rooms), strict=True))
    needed = f"a {names} model ({classes})"
    if framework is None:
        return UnsuitableModel(refusal(operation, needed, model))
    received = f"a {FRAMEWORKS[framework][0]} model ({type(model).__name__})"
    return UnsuitableModel(f"{operation} needs {needed}, received {received}: {instead_of(operation, framework)}.")
