"""The values that an option or an argument takes, and the one sentence for a value that it does not take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from normwise.errors import NormwiseError, UnknownName
from normwise.loading import check_source

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # which older releases of click cannot be asked for a kind of

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def refuse(param: click.Parameter | None, words: str, received: object) -> NoReturn:
    """Say that a value is wrong: which option, what it must be, what was received.

    Raises:
        UsageError: always.
    """
    raise click.UsageError(f"{title(param)} must be {words}, received {str(received)!r}.")


def title(param: click.Parameter | None) -> str:
    """The user's name for it: ``--batches``, ``MODEL``."""
    if param is None:
        return "it"
    return param.opts[-1] if isinstance(param, click.Option) else (param.metavar or str(param.name).upper()).strip("[]")


class Whole(_Type):
    """A whole number, of at least ``least``."""

    name = "N"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002 - click's
        """The number."""
        try:
            number = int(value)
        except ValueError:
            number = self.least - 1
        return number if number >= self.least else refuse(param, f"a whole number of {self.least} or more", value)


class Number(_Type):
    """A number of 0 or more; ``words`` say of what, ``infinite`` and ``zero`` whether it may be that."""

    name = "X"

    def __init__(self, words: str, *, infinite: bool = False, zero: bool = True) -> None:
        self.words, self.infinite, self.zero = words, infinite, zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ARG002 - click's
        """The number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        right = number >= 0 and (self.infinite or math.isfinite(number))  # NaN is not
        return number if right and (self.zero or number) else refuse(param, self.words, value)


class Factor(_Type):
    """A number other than 0, written as a number or as a fraction."""

    name = "X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ARG002 - click's
        """The number."""
        try:
            above, _, below = str(value).partition("/")
            number = float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        right = math.isfinite(number) and number != 0
        return number if right else refuse(param, "a number other than 0, for example 1/255", value)


class Name(_Type):
    """One of the names that are known, which are looked up when one is given."""

    name = "NAME"

    def __init__(self, kind: str, known: Callable[[], Collection[str]], *, all_of_them: str = "") -> None:
        self.kind, self.known, self.all_of_them = kind, known, all_of_them

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """The name."""
        known = self.known()
        if value not in known:
            raise click.UsageError(str(UnknownName(self.kind, value, known, all_of_them=self.all_of_them)))
        return str(value)


class File(_Type):
    """The path of a file or, with ``folder``, of a folder, whether it is there or not."""

    name = "FILE"

    def __init__(self, *, folder: bool = False) -> None:
        self.name = "DIR" if folder else "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002 - click's
        """The path."""
        if not str(value).strip():
            refuse(param, "the path of a folder" if self.name == "DIR" else "the path of a file", value)
        return Path(value)


class Place(_Type):
    """The place of a model or of data; ``check`` raises a ``NormwiseError`` for what cannot be a place."""

    name = "PLACE"

    def __init__(self, check: Callable[[str], None]) -> None:
        self.check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """The place as it was given."""
        allowed(lambda: self.check(value))
        return str(value)


class Source(_Type):
    """A Python file, or a module as an import statement names it."""

    name = "FILE.py"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """The file or module as it was given."""
        if Path(value).suffix != ".py" and not all(map(str.isidentifier, str(value).split("."))):
            refuse(param, "a Python file or a module, for example nets.py", value)
        return str(value)


class Address(_Type):
    """The address of a Dask scheduler."""

    name = "ADDRESS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's
        """The address as it was given."""
        found = re.fullmatch(r"(?:(?:tcp|tls|ws|wss|ucx)://)?[^\s/:]+:(\d{1,5})|inproc://\S+", str(value), re.ASCII)
        if not found or int(found[1] or 1) not in range(1, 2**16):
            refuse(param, "the address of a Dask scheduler, for example tcp://10.0.0.1:8786", value)
        return str(value)


class Time(_Type):
    """``90s``, ``30m`` or ``2h``, in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ARG002 - click's
        """Seconds."""
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", str(value), re.ASCII)
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        return seconds if seconds > 0 else refuse(param, "a time above 0, written as 90s, 30m or 2h", value)


class Several(_Type):
    """Values with commas between them."""

    name = "LIST"

    def __init__(self, one: Callable[[str], Any], words: str) -> None:
        self.one, self.words = one, words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:  # noqa: ARG002 - click's
        """The values; of those that are given twice, the first."""
        try:
            return list(dict.fromkeys(self.one(each.strip()) for each in str(value).split(",")))
        except ValueError:
            refuse(param, f"{self.words} with commas between them", value)


def allowed(check: Callable[[], object]) -> None:
    """Let the package's own check decide over what was typed.

    Raises:
        UsageError: it refused, with its sentence.
    """
    try:
        check()
    except NormwiseError as error:
        raise click.UsageError(str(error)) from error


def check_data(place: str) -> None:
    """Refuse data that are not there, an ``.npz`` or the file of a function, before a framework is imported.

    Raises:
        NormwiseError: the sentence says what is wrong.
    """
    if place.endswith(".npz"):
        from normwise.archives import check_archive  # NumPy, which wrong words need not wait for

        check_archive(Path(place))
    else:
        check_source(place)
