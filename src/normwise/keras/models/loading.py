"""What the command line calls MODEL and DATA, of Keras: a ``.keras`` file, read and written, and its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from normwise.archives import arrays_of, check_keras
from normwise.keras.layers.saving import say_nothing
from normwise.loading import attempt, called, check_suffix, check_target, named_object, write_whole

SUFFIX = ".keras"


def load_model(place: str) -> Any:
    """The model in a file, with its optimizer; code that the file brings with it is not run.

    Args:
        place: a path that ends in ``.keras``.

    Raises:
        NormwiseError: there is no such file, or Keras refuses it, as it does with code in it (``Lambda`` layers).
    """
    check_keras(Path(place))
    return attempt(lambda: keras.saving.load_model(place, safe_mode=True), f"loading {place}")


def load_batches(place: str, model: Any) -> Any:
    """The batches of DATA: ``file.py:callable`` that returns an iterable of them or arrays, or an ``.npz``.

    Of an ``.npz``, the arrays that are named like inputs of the model are its inputs; if none is, the first one.

    Args:
        place: as above; the callable takes no argument.
        model: for which they are.

    Raises:
        NormwiseError: something of it is not there, fails, or does not fit; the sentence says what.
    """
    if place.endswith(".npz"):
        names = {each.name for each in getattr(model, "inputs", None) or ()}
        arrays = arrays_of(Path(place), names)
        return arrays if {*arrays} <= names else next(iter(arrays.values()))
    found = named_object(place, "DATA")
    return called(found, place) if callable(found) else found


def check_name(path: Path) -> None:
    """Refuse what is no file of a model, before minutes are spent on what would go into it.

    Raises:
        NormwiseError: the suffix is unknown, or it could not be written.
    """
    check_suffix(path, (SUFFIX,), "a Keras model is")
    check_target(path)


def save_model(model: Any, path: Path) -> None:
    """Write the whole model; the file is there with all of it, or is as it was.

    Raises:
        NormwiseError: a name that ends otherwise than models do.
    """
    check_name(path)
    say_nothing()
    write_whole(path, model.save)
