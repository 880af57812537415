"""Arrays from an ``.npz``, one row per sample, as a model takes them; one sentence for a file that is none.

Arrays of floating-point numbers take the model's dtype, and so do integers of 8 and 16 bits, which are pixels or sound.
Those of 32 and 64 bits may be indices, and stay.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normwise.errors import NormwiseError
from normwise.failures import first_words
from normwise.loading import check_file

TARGETS = ("labels", "label", "targets", "target", "y")
"""The usual names of targets, which have a row for each sample though no model takes them."""


def arrays_of(path: Path, names: Collection[str], tell: Callable[[str], None]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an ``.npz`` that have one of these names; if none has, the first one.

    Args:
        path: of a file without pickled objects.
        names: of a model's inputs.
        tell: called with a sentence on the array taken, where there are several and none has one of the names.

    Raises:
        NormwiseError: there is no such file, it holds something else, or its arrays do not have one row per sample.
    """
    held = check_archive(path)
    chosen = [name for name in held if name in names] or held[:1]
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: _array(archive, name, path) for name in chosen}
        lengths = {name: len(array) for name, array in arrays.items()}
        lengths |= {name: len(_array(archive, name, path)) for name in held if name in TARGETS and name not in chosen}
    if len({*lengths.values()}) > 1:
        raise NormwiseError(
            f"the arrays of {str(path)!r} must have one row per sample, received {lengths}: "
            "save them with the same number of rows."
        )
    if held[1:] and chosen[0] not in names:
        left, known = (", ".join(map(repr, each)) for each in (held[1:], sorted(names)))
        tell(
            f"the array {held[0]!r} of {str(path)!r} is taken because it is the first, and {left} left out: to take "
            f"another, give it the name of an input of the model ({known or 'which this one has not'})."
        )
    return arrays


class Cast:
    """The conversion of the arrays of an ``.npz`` into numbers of a model's dtype.

    Args:
        path: of the file.
        scale: what they are multiplied by; None for nothing.
        tell: called with a sentence for each array that is not taken as it is.

    Example:
        >>> cast = Cast(Path("rows.npz"), 0.25, print)
        >>> x = np.array([[0, 8]], dtype=np.uint8)
        >>> cast.says({"x": x}, {"x": "float32"})
        the array 'x' of 'rows.npz' is cast from uint8 to float32 and multiplied by 0.25: its values are from 0 to 2.
        >>> cast(x, "float32")
        array([[0., 2.]], dtype=float32)
    """

    def __init__(self, path: Path, scale: float | None, tell: Callable[[str], None]) -> None:
        self.path, self.scale, self.tell = path, scale, tell

    def __call__(self, array: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
        """The array, or some rows of it, in a dtype.

        Args:
            array: of any shape and dtype.
            dtype: a floating-point one; integers stay where the model takes another.
        """
        if not _changes(array, dtype):
            return array
        wide = array.astype(np.promote_types(dtype, np.float32), copy=False)
        return (wide if self.scale is None else wide * wide.dtype.type(self.scale)).astype(dtype, copy=False)

    def says(self, arrays: Mapping[str, np.ndarray[Any, Any]], dtypes: Mapping[str, str]) -> None:
        """Tell what is done with each array.

        Args:
            arrays: by name.
            dtypes: what the model takes, by the same names.

        Raises:
            NormwiseError: a scale was given, and there is no array to be scaled.
        """
        changed = {name: array for name, array in arrays.items() if _changes(array, dtypes[name])}
        if self.scale is not None and not changed:
            name, array = next(iter(arrays.items()))
            raise NormwiseError(
                f"--scale is for floating-point numbers and for integers of 8 and 16 bits, and the array {name!r} of "
                f"{str(self.path)!r} is {array.dtype}: leave --scale out, or save the array as float32."
            )
        for name, array in changed.items():
            done = [f"cast from {array.dtype} to {dtypes[name]}"] if array.dtype != dtypes[name] else []
            done += [f"multiplied by {self.scale:g}"] if self.scale is not None else []
            if done:
                self.tell(f"the array {name!r} of {str(self.path)!r} is {' and '.join(done)}{self._remark(array)}.")

    def _remark(self, array: np.ndarray[Any, Any]) -> str:
        """The range of the values, in words, if a user should look at it; else an empty text."""
        least, most = float(array.min()), float(array.max())
        if self.scale is not None:
            least, most = sorted((least * self.scale + 0.0, most * self.scale + 0.0))  # which makes 0 of -0
            return f": its values are from {least:g} to {most:g}"
        if array.dtype.kind == "f" or max(-least, most) <= 1:
            return ""
        whole = 1 << 8 * array.dtype.itemsize - (array.dtype.kind == "i")
        divisor = whole - 1 if array.dtype.kind == "u" else whole
        return (
            f", and its values, from {least:g} to {most:g}, are not scaled: give --scale 1/{divisor} if the model was "
            "trained on values up to 1"
        )


def _changes(array: np.ndarray[Any, Any], dtype: str) -> bool:
    """True if an array holds values and the model takes floating-point numbers."""
    values = array.dtype.kind == "f" or (array.dtype.kind in "iu" and array.dtype.itemsize < 4)
    return values and np.dtype(dtype).kind == "f"


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
