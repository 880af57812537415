"""Arrays from an ``.npz``, one row per sample; and one sentence for every file that is none, or no ``.keras``."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from normwise.errors import NormwiseError
from normwise.failures import first_words
from normwise.loading import check_file


def arrays_of(path: Path, names: Collection[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an ``.npz`` that have one of these names; if none has, the first one.

    Args:
        path: of a file without pickled objects.
        names: of a model's inputs.

    Raises:
        NormwiseError: there is no such file, it holds something else, or its arrays do not have one row per sample.
    """
    held = check_archive(path)
    chosen = [name for name in held if name in names] or held[:1]
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: _array(archive, name, path) for name in chosen}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len({*lengths.values()}) > 1:
        raise NormwiseError(
            f"the arrays of {str(path)!r} must have one row per sample, received {lengths}: "
            "save them with the same number of rows."
        )
    return arrays


def check_archive(path: Path) -> list[str]:
    """The names of the arrays in an ``.npz``, none of which is read.

    Raises:
        NormwiseError: there is no such file, it is something else, or it holds no array.
    """
    check_file(path, "the data")
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise NormwiseError(f"{str(path)!r} is one array, as numpy.save writes it: save it with numpy.savez.")
    if not zipfile.is_zipfile(path):
        raise NormwiseError(f"{str(path)!r} is no .npz file, or a damaged one: write it with numpy.savez.")
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    others = [name for name in members if not name.endswith(".npy")]
    if others or not members:
        held = f"{others[0]!r}, which is no array" if others else "nothing"
        raise NormwiseError(f"{str(path)!r} must hold arrays, received a file that holds {held}: use numpy.savez.")
    return [name.removesuffix(".npy") for name in members]


def check_keras(path: Path) -> None:
    """Refuse what is no ``.keras`` file, before Keras is imported.

    Raises:
        NormwiseError: there is no such file, it is something else, or a part of it is missing.
    """
    check_file(path, "the model")
    if not zipfile.is_zipfile(path):
        raise NormwiseError(f"{str(path)!r} is no .keras file, or a damaged one: write it with model.save().")
    with zipfile.ZipFile(path) as archive:
        missing = {"config.json", "model.weights.h5"} - {*archive.namelist()}
    if missing:
        raise NormwiseError(
            f"{str(path)!r} is no .keras file, or a damaged one: it lacks {min(missing)}; write it with model.save()."
        )


def _array(archive: Any, name: str, path: Path) -> np.ndarray[Any, Any]:
    """One array, of numbers, in a type that the frameworks know."""
    place = f"the array {name!r} of {str(path)!r}"
    try:
        array = np.asarray(archive[name])
    except Exception as error:
        if isinstance(error, ValueError) and "Object arrays" in str(error):
            raise NormwiseError(
                f"{place} holds Python objects, which are not read because reading them runs code: save numbers."
            ) from error
        raise NormwiseError(f"{place} is damaged: {first_words(error)}; write it again.") from error
    if array.dtype.kind not in "biufc":
        raise NormwiseError(f"{place} must hold numbers, received {array.dtype}: save numbers.")
    if not array.ndim or not len(array):
        received = f"an array of shape {array.shape}" if array.ndim else "a single number"
        raise NormwiseError(f"{place} must have one row per sample, received {received}: save an array with rows.")
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 8  # long double, which only NumPy has
    return array.astype(np.float64 if wide else array.dtype.newbyteorder("="), copy=False)
