"""The user's model and rows, as the command line names them."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from normwise import loading
from normwise.errors import NormwiseError
from normwise.frameworks import framework_of, with_article
from normwise.lab.comparison.rows import Array, Rows

FEWEST = 20
"""Rows; with fewer there is nothing to split."""


def load(place: str) -> Rows:
    """Inputs with targets.

    Args:
        place: an ``.npz`` with the arrays ``x`` and ``y``, or ``FILE.py:CALLABLE`` that returns the two.

    Raises:
        NormwiseError: they are not there, do not fit each other, are too few, or are not finite.
    """
    inputs, targets = _arrays(Path(place)) if place.endswith(".npz") else _returned(place)
    for name, array in (("inputs", inputs), ("targets", targets)):
        if array.dtype.kind not in "fiub" or not array.ndim:
            raise NormwiseError(
                f"{place} must give two arrays of numbers, with one row per sample, received {name} that are "
                f"{_kind(array)}: convert them."
            )
    if len(inputs) != len(targets):
        raise NormwiseError(
            f"{place} must give one target for each row of inputs, received {len(inputs)} rows and {len(targets)} "
            "targets: give as many of one as of the other."
        )
    if len(inputs) < FEWEST:
        raise NormwiseError(
            f"{place} must give {FEWEST} rows or more, which are split into rows for training, validation and test, "
            f"received {len(inputs)}: give more."
        )
    for name, array in (("inputs", inputs), ("targets", targets)):
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if bad.any():
            raise NormwiseError(
                f"{place} must give finite numbers, received {name} with NaN or infinity, first in row "
                f"{int(bad.argmax())}: leave such rows out, or replace the values."
            )
    targets = targets.astype(np.float32 if targets.dtype.kind == "f" else np.int64)
    if targets.dtype.kind == "i":
        if targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
        if targets.ndim > 1 or targets.min() < 0:
            raise NormwiseError(
                f"targets of whole numbers are classes, one per row and numbered from 0, received {place} with targets "
                f"of shape {targets.shape} from {targets.min()} on: number the classes from 0, or give floating-point "
                "numbers if the targets are values to predict."
            )
        if targets.min() == targets.max():
            raise NormwiseError(
                f"{place} must give targets of two classes or more, received the class {targets[0]} alone: give rows "
                f"of "
                "other classes too."
            )
    return Rows(inputs.astype(np.float32 if inputs.dtype.kind == "f" else np.int64), targets)


def _kind(array: Array) -> str:
    return f"of dtype {array.dtype}" if array.ndim else "one value"


def _arrays(path: Path) -> tuple[Array, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ("x", "y") if name not in file.files]
            if missing:
                held = ", ".join(file.files) or "nothing"
                raise NormwiseError(
                    f"{str(path)!r} must hold the arrays x and y, received a file that holds {held}: write it with "
                    "numpy.savez(file, x=inputs, y=targets)."
                )
            return np.asarray(file["x"]), np.asarray(file["y"])
    except FileNotFoundError as error:
        raise NormwiseError(f"there is no file {str(path)!r}: give the path of the data.") from error
    except (OSError, ValueError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())
        raise NormwiseError(
            f"{str(path)!r} cannot be read as an .npz with the arrays x and y: {words.rstrip('. ')}; write it with "
            "numpy.savez(file, x=inputs, y=targets)."
        ) from error


def _returned(place: str) -> tuple[Array, Array]:
    found: Any = loading.named_object(place, "DATA")
    found = loading.called(found, place) if callable(found) else found
    if not isinstance(found, tuple | list) or len(found) != 2:
        kind = type(found).__name__
        received = f"a {kind} of {len(found)}" if isinstance(found, tuple | list) else with_article(kind)
        raise NormwiseError(
            f"{place} must return two arrays, the inputs and the targets, received {received}: return (inputs, "
            "targets)."
        )
    inputs, targets = (np.asarray(each) for each in found)
    return inputs, targets


def model(place: str) -> tuple[Callable[[], Any], str]:
    """The function that builds the user's model, and a text that tells the model from others.

    Args:
        place: ``FILE.py:CALLABLE`` or ``PACKAGE.MODULE:CALLABLE``; for PyTorch, also the name of a module.

    Returns:
        a callable that returns the model, and a digest of the text of the file that the callable stands in.

    Raises:
        NormwiseError: there is no such thing.
    """
    found = loading.named_object(place, "MODEL")
    own = framework_of(found)
    if own == "keras":
        raise NormwiseError(
            f"{place} must be a function, received a Keras model: write a function that builds a new one at each call."
        )
    if own is None and not callable(found):
        kind = with_article(type(found).__name__)
        raise NormwiseError(f"{place} must be a function, received {kind}: write the name of a function.")
    file = getattr(sys.modules.get(getattr(found, "__module__", "")), "__file__", None)
    text = Path(file).read_bytes() if file is not None and file.endswith(".py") else b""
    identity = f"{place} {hashlib.sha256(text).hexdigest()[:24]}"
    return (lambda: found) if own == "torch" else (lambda: loading.called(found, place)), identity
