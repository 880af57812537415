"""The few errors that a caller would want to catch; each message is one sentence that says what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class NormwiseError(Exception):
    """Every error that normwise itself defines is one of these."""


class UnknownName(NormwiseError, ValueError):
    """A name that is not in the list it is looked up in; the message names the nearest one.

    Args:
        kind: what the name stands for, for example ``"activation"``.
        name: what was received.
        known: the names that exist.

    Example:
        >>> print(UnknownName("activation", "rellu", ["relu", "gelu"]))
        unknown activation 'rellu': did you mean 'relu'? Known: gelu, relu.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(str(name), names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names)}.")


class MissingExtra(NormwiseError, ImportError):
    """A library that an extra installs is not there; the message names the command that installs it.

    Args:
        library: the library that could not be imported, for example ``"torch"``.
        extra: the extra of normwise that brings it, for example ``"torch"``.

    Example:
        >>> print(MissingExtra("torch", extra="torch"))
        torch is not installed; install it with: pip install 'normwise[torch]'
    """

    def __init__(self, library: str, *, extra: str) -> None:
        super().__init__(f"{library} is not installed; install it with: pip install 'normwise[{extra}]'")


class KernelUnavailable(NormwiseError, RuntimeError):
    """An implementation was asked for by name and cannot serve the call."""


class NothingChanged(UserWarning):
    """An operation on a model found nothing that it may change; the message says why."""
