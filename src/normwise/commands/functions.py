"""Options that name a function of the user's: the type of their values, and the function itself."""

from __future__ import annotations

from typing import Any

from normwise.commands.values import Place
from normwise.errors import NormwiseError
from normwise.frameworks import with_article
from normwise.loading import check_place, named_object


class Function(Place):
    """The place of a function, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION."""

    name = "FUNCTION"

    def __init__(self, option: str) -> None:
        super().__init__(lambda place: check_place(place, option, file=False))


def named_function(place: str, option: str) -> Any:
    """The function that an option names.

    Args:
        place: of it.
        option: for an error, and for the name that a remedy gives the function.

    Raises:
        NormwiseError: it is not there, or no function.
        UnknownName: its module has no such name.
    """
    found = named_object(place, option)
    name = option.removeprefix("--").replace("-", "_")
    if isinstance(found, type):
        kind = found.__name__
        raise NormwiseError(
            f"{option} must name a function, received the class {kind}: write {name} = {kind}() in a file of yours, "
            f"and give {option} FILE.py:{name}."
        )
    if not callable(found):
        kind = with_article(type(found).__name__)
        raise NormwiseError(f"{place} must be a function, received {kind}: write the name of one.")
    return found
