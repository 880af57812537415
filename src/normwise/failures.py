"""Another's error in one sentence: its kind, where in the user's code it came from, and what it says first."""

from __future__ import annotations

import re
import sysconfig
import traceback
from pathlib import Path

LONG = 300
"""Characters of an error's own words at most."""

_PACKAGE = Path(__file__).resolve().parent
_LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_VALUES = re.compile(r"\[\[.*?\]\]+", re.DOTALL)  # of an array, which an error may print in full


def sentence(error: BaseException, layer: str = "") -> str:
    r"""Kind, place and first line of an error, without a full stop.

    The place is the last line of the user's own code on the way to it; where there is none, the layer or the line that
    raised it.

    Args:
        error: any.
        layer: the layer that raised it, in words; empty where that is not known.

    Example:
        >>> sentence(ValueError("no such thing\nand more"))
        'ValueError: no such thing'
    """
    kind, words = type(error).__name__, first_words(error)
    if isinstance(error, SyntaxError):
        where = f" in line {error.lineno} of {Path(error.filename).name}" if error.filename and error.lineno else ""
        words = error.msg
    else:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")]
        ours = frames and Path(frames[-1].filename).is_relative_to(_PACKAGE)
        if ours and not isinstance(error, LookupError | AssertionError):  # our own words about what was received
            return words or kind
        users = [each for each in frames if _is_users(Path(each.filename))]
        last = (users or frames)[-1] if frames else None
        where = f" in line {last.lineno} of {Path(last.filename).name}" if last else ""
        where = f" in {layer}" if layer and not users else where
    return f"{kind}{where}: {words}" if words else f"{kind}{where}"


def first_words(error: BaseException) -> str:
    r"""The first line that says something, without colours, a full stop, or an end where it is long.

    Example:
        >>> first_words(ValueError("Exception encountered when calling Dense.call().\n\n\x1b[1mNo.\x1b[0m"))
        'No'
        >>> first_words(ValueError("Invalid input [[0.1 0.2]\n [0.3 0.4]] of shape (2, 2)"))
        'Invalid input [...] of shape (2, 2)'
    """
    lines = [line.strip() for line in _VALUES.sub("[...]", _COLOURS.sub("", str(error))).splitlines()]
    if lines and re.match(r"Caught \w+ in DataLoader worker", lines[0]):  # PyTorch sends the traceback as text
        lines = lines[-1:]
    said = [line for line in lines if line and not line.startswith("Exception encountered when calling")]  # Keras
    first = (said or [line for line in lines if line] or [""])[0].rstrip(".: ")
    return first if len(first) <= LONG else f"{first[:LONG].rstrip()}..."


def _is_users(path: Path) -> bool:
    path = path.resolve()
    return not path.is_relative_to(_PACKAGE) and not any(path.is_relative_to(each) for each in _LIBRARIES)
