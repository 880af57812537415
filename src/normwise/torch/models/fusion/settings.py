"""The values that a forward reads off its module, kept in a form that can be compared later."""

from __future__ import annotations

import types
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

PLAIN = (bool, int, float, str, type(None))

UNKEPT = object()
"""The mark in the place of a value that is no setting: a tensor, a module, anything that cannot be compared later."""
MANY = 64
"""A collection of more values is data, and no setting."""


@dataclass(frozen=True)
class Answer:
    """The answer that a forward got about an attribute of its module.

    Args:
        kinds: the classes that ``isinstance`` was asked about; None where the question is whether it is there.
        yes: the answer.
    """

    kinds: tuple[type, ...] | None
    yes: bool

    def holds(self, module: nn.Module, name: str) -> bool:
        """True if the module would answer the same now."""
        try:
            value = attribute_of(module, name)
        except AttributeError:
            return self.kinds is None and not self.yes
        return self.yes if self.kinds is None else isinstance(value, self.kinds) is self.yes

    def __str__(self) -> str:
        if self.kinds is None:
            return "there" if self.yes else "not there"
        names = " or ".join(kind.__name__ for kind in self.kinds)
        return f"one of {names}" if self.yes else f"none of {names}"


Settings = tuple[tuple[str, object], ...]


def as_kept(value: object) -> object:
    """A setting in a form that stays what it is and can be compared, or ``UNKEPT``.

    Example:
        >>> as_kept({"act": "relu", "slopes": [0.1, 0.2]})
        ('dict', 'act', 'relu', 'slopes', ('list', 0.1, 0.2))
    """
    if isinstance(value, (*PLAIN, Enum, torch.dtype, torch.device, types.FunctionType, types.BuiltinFunctionType)):
        return value
    if not isinstance(value, list | tuple | dict) or len(value) > MANY:
        return UNKEPT
    items = [each for pair in value.items() for each in pair] if isinstance(value, dict) else value
    kept = [as_kept(each) for each in items]
    return UNKEPT if any(each is UNKEPT for each in kept) else (type(value).__name__, *kept)


def _shown(kept: object) -> str:
    """A setting in the form that the user gave it."""
    match kept:
        case ("dict", *items):
            return f"{{{', '.join(f'{_shown(a)}: {_shown(b)}' for a, b in zip(items[::2], items[1::2], strict=True))}}}"
        case ("list" | "tuple" as kind, *items):
            inside = ", ".join(map(_shown, items))
            return f"[{inside}]" if kind == "list" else f"({inside},)"
    return "something else" if kept is UNKEPT else repr(kept)


def setting_now(module: nn.Module, name: str) -> object:
    """The setting that the module has now under this name; ``UNKEPT`` where it has none."""
    try:
        return as_kept(attribute_of(module, name))
    except AttributeError:
        return UNKEPT


def attribute_of(module: nn.Module, name: str) -> Any:
    """The value under a name with points in it; an AttributeError where there is none."""
    for part in name.split("."):
        module = getattr(module, part)
    return module


def changed_setting(module: nn.Module, settings: Settings) -> str | None:
    """A clause on a setting that has changed since the settings were read; None if none has."""
    for name, value in settings:
        if isinstance(value, Answer):
            if not value.holds(module, name):
                return f"{name} of this {type(module).__name__} was {value} when the model was fused, and is not now"
        elif (now := setting_now(module, name)) != value:
            received = getattr(module, name, "nothing") if "." not in name else now
            return (
                f"{name} of this {type(module).__name__} was {_shown(value)} when the model was fused, received "
                f"{_shown(received)}"
            )
    return None
