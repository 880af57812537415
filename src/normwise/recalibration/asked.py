"""Checks of what a caller asked an operation on a whole model for: names of layers, numbers, a function."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from normwise.errors import NormwiseError, UnknownName


def names_asked(
    layers: Collection[str] | None, known: Iterable[str], kind: str, also: Iterable[str] = ()
) -> tuple[str, ...] | None:
    """The names of the only layers to work on, all of which exist.

    Args:
        layers: the caller's ``layers``; None for all.
        known: the names of the layers that there are.
        kind: what errors call them.
        also: other names by which they may be called.

    Returns:
        the names; None for all.

    Raises:
        TypeError: a string, whose items are letters, or no collection.
        UnknownName: one of the names is of none.

    Example:
        >>> names_asked(["bn1"], {"bn1", "bn2"}, "batch norm")
        ('bn1',)
        >>> names_asked("bn1", {"bn1", "bn2"}, "batch norm")
        Traceback (most recent call last):
            ...
        TypeError: layers must be a list of names, received 'bn1': pass ['bn1'].
    """
    if layers is None:
        return None
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, received {layers!r}: pass [{layers!r}].")
    if isinstance(layers, bytes) or not isinstance(layers, Iterable):
        raise TypeError(
            f"layers must be a list of names, received {layers!r}: pass the names as named_modules has them, or, of a "
            "Keras model, their paths or names; leave it out for all."
        )
    names, shown, others = tuple(layers), [*known], [*also]
    for name in names:
        if name not in shown and name not in others:
            raise UnknownName(kind, name, shown)
    return names


def as_number(value: object) -> float:
    """A number from a caller as a float; NaN where it is none.

    Example:
        >>> as_number(3), as_number("3"), as_number(True), as_number(None)
        (3.0, nan, nan, nan)
    """
    if isinstance(value, str | bytes | bool):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]  # scalars of every framework are numbers too
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return math.nan


def check_every(every: object) -> None:
    """Refuse what is no number of epochs.

    Raises:
        NormwiseError: the message says what was received.

    Example:
        >>> check_every(0)
        Traceback (most recent call last):
            ...
        normwise.errors.NormwiseError: every is a number of epochs, 1 or more, received 0: pass 1 for every epoch.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise NormwiseError(f"every is a number of epochs, 1 or more, received {every!r}: pass 1 for every epoch.")


def check_forward_fn(forward_fn: object) -> None:
    """Refuse what cannot be called.

    Raises:
        NormwiseError: it is given, and is no function.
    """
    if forward_fn is not None and not callable(forward_fn):
        raise NormwiseError(
            f"forward_fn must be a function of the model and a batch, received {forward_fn!r}: "
            "pass the function itself."
        )
