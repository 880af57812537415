"""The few errors that a caller would want to catch; each message is one sentence that says what to do."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

MANY = 12
"""More names than these are not listed in an error."""
SHORT = 2
"""A word of so few letters, or fewer, is part of too many names."""


class NormwiseError(Exception):
    """Every error that normwise itself defines is one of these."""


class UnknownName(NormwiseError, ValueError):
    """A name that is not in the list it is looked up in; the message names those that are like it or contain it.

    Args:
        kind: what the name stands for, for example ``"activation"``.
        name: what was received.
        known: the names that exist.
        all_of_them: what shows all names where they are too many for a sentence, for example a command.
        place: where the name was looked for or comes from, for example ``"in nets.py"``.

    Example:
        >>> print(UnknownName("activation", "rellu", ["relu", "gelu"]))
        unknown activation 'rellu': did you mean 'relu'? Known: gelu, relu.
        >>> print(UnknownName("month", "juny", ["june", "july", *map(str, range(10, 22))], all_of_them="`cal`"))
        unknown month 'juny': did you mean 'june' or 'july'? `cal` shows all 14.
        >>> print(UnknownName("name", "ney", ["net"], place="in nets.py"))
        unknown name 'ney' in nets.py: did you mean 'net'? Known: net.
        >>> print(UnknownName("check", "stale", ["stale_statistics", "wrong_axis"]))
        unknown check 'stale': did you mean 'stale_statistics'? Known: stale_statistics, wrong_axis.
        >>> print(UnknownName("activation", "Relu", ["elu", "relu"]))
        unknown activation 'Relu': did you mean 'relu'? Known: elu, relu.
        >>> print(UnknownName("month", "x", ["june", "july"]))
        unknown month 'x'; known: july, june.
    """

    def __init__(
        self, kind: str, name: object, known: Iterable[str], *, all_of_them: str = "", place: str = ""
    ) -> None:
        names = sorted(known)
        many = len(names) > MANY
        near = [repr(each) for each in _near(str(name), names)[: 3 if many else 1]]
        hint = f": did you mean {' or '.join([', '.join(near[:-1])] * (len(near) > 1) + near[-1:])}? " if near else "; "
        known_are = "Known:" if near else "known:"
        if not many:
            rest = f"{known_are} {', '.join(names)}." if names else "there are no names to choose from."
        elif all_of_them:
            rest = f"{all_of_them} shows all {len(names)}."
        else:
            rest = f"{known_are} {', '.join(names[:MANY])}, and {len(names) - MANY} more."
        super().__init__(f"unknown {kind} {name!r}{' ' * bool(place)}{place}{hint}{rest}")


def _near(name: str, names: list[str]) -> list[str]:
    """The names that are spelt nearly as this one, then those that contain it, as a user may remember one word only."""
    word = re.sub(r"\W+", "_", name.strip()).strip("_").lower()
    containing = [each for each in names if len(word) > SHORT and word in each.lower()]
    written = {each.lower(): each for each in names}  # "Relu" is nearer to "relu" than to "elu"
    close = [written[each] for each in get_close_matches(name.lower(), written)]
    return list(dict.fromkeys([*close, *containing]))


class MissingExtra(NormwiseError, ImportError):
    """A library that an extra installs is not there; the message names the command that installs it.

    Args:
        library: the library that could not be imported, for example ``"torch"``.
        extra: the extra of normwise that brings it, for example ``"torch"``.

    Example:
        >>> print(MissingExtra("torch", extra="torch"))
        torch is not installed; install it with: ...pip install ...
    """

    def __init__(self, library: str, *, extra: str) -> None:
        from normwise.installation import extra_command  # what it needs, a program without a mistake need not wait for

        super().__init__(f"{library} is not installed; install it with: {extra_command(extra)}")


class UnsuitableModel(NormwiseError, TypeError):
    """An operation on a whole model was given what is no model, or one that it cannot work on."""


class KernelUnavailable(NormwiseError, RuntimeError):
    """An implementation was asked for by name and cannot serve the call."""


class StatisticsCaptured(NormwiseError, RuntimeError):
    """A layer in training mode was called where ``torch.func`` lets nothing change in place."""


class CallFailed(NormwiseError, RuntimeError):
    """A call of something that an operation was given (a model, batches, a loss) failed; ``__cause__`` is its error."""


class NothingChanged(UserWarning):
    """An operation on a model found nothing that it may change; the message says why."""


class UnhealthyModel(UserWarning):
    """A fault of normalization in a model that is being trained; the message is the diagnosis."""
