"""Data sets of images that the user has on disk: found by name, read in their original formats, checked.

A member is one file in the folder ``formats`` with ``read(folder) -> Images`` and ``TITLE``, how readers know it; its
name is the command line's. One of which another package brings images also has ``packaged() -> Path``, the folder with
them.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from normwise.errors import NormwiseError, UnknownName

Bytes = npt.NDArray[np.uint8]
CLASSES = 10
FOLDER = Path(__file__).parent / "formats"


class DataError(NormwiseError, ValueError):
    """A data file is missing or damaged; the sentence names it, and says what was expected."""


class NoPackage(DataError):
    """No package brings the images of a data set, so that the user has to."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no package brings the images of {name}: name the folder with its files by --data-dir.")


@dataclass(frozen=True)
class Part:
    """Images with their labels.

    Args:
        images: shape (n, channels, height, width), uint8.
        labels: shape (n,), uint8, 0 to 9.
    """

    images: Bytes
    labels: Bytes


@dataclass(frozen=True)
class Images:
    """A data set as its makers split it; one that nobody split is all in ``train``, and ``test`` is None."""

    train: Part
    test: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The training images and, where there are any, the test images."""
        return (self.train,) if self.test is None else (self.train, self.test)


@dataclass(frozen=True)
class Source:
    """A data set and the folder of its files.

    Args:
        name: of the data set.
        folder: with its files; None: the one that an installed package brings, wherever that is.
        fingerprint: tells contents apart, and is what a result depends on.
        count: how many images there are.
    """

    name: str
    folder: Path | None
    fingerprint: str = ""
    count: int = 0

    @property
    def words(self) -> str:
        """The images in words, for a reader: ``MNIST, 5000 images``."""
        return f"{_format(self.name).TITLE}, {self.count} images"

    @property
    def label(self) -> str:
        """The same as one word, which tells 5000 images of a data set from all of them: ``mnist-5000``."""
        return f"{self.name}-{self.count}"

    @property
    def options(self) -> str:
        """The command-line options that ask for these images."""
        return f"--data {self.name}" + ("" if self.folder is None else f" --data-dir {self.folder}")


def names() -> list[str]:
    """The data sets that can be read."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def source(name: str, folder: Path | None = None) -> Source:
    """Read and check a data set, to know its fingerprint.

    Args:
        name: of the data set.
        folder: with its files; None: the one that an installed package brings.

    Raises:
        UnknownName: no data set is called so.
        DataError: a file is missing or damaged.
    """
    if name not in names():
        raise UnknownName("data set", name, names())
    if folder is not None and not folder.is_dir():
        raise DataError(f"the folder {str(folder)!r} of --data-dir is not there: name the one with {name}'s files.")
    images = read(name, folder)
    digest = hashlib.sha256()
    for part in images.parts:
        for array in (part.images, part.labels):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
    count = sum(len(part.labels) for part in images.parts)
    return Source(name, folder and folder.resolve(), digest.hexdigest()[:16], count)


@cache
def read(name: str, folder: Path | None = None) -> Images:
    """The data set; kept, because every trial of a process asks for it.

    Raises:
        DataError: a file is missing or damaged.
    """
    images: Images = _format(name).read(packaged(name) if folder is None else folder)
    return images


def packaged(name: str) -> Path:
    """The folder in which an installed package keeps a data set.

    Raises:
        NoPackage: none does.
        DataError: it is not installed.
    """
    found = _format(name)
    if not hasattr(found, "packaged"):
        raise NoPackage(name)
    folder: Path = found.packaged()
    return folder


def _format(name: str) -> Any:
    return importlib.import_module(f"normwise.lab.data.formats.{name}")


def find(folder: Path, spellings: Sequence[str], below: Sequence[str] = ()) -> Path:
    """The first file that is there, in the folder or in one below it.

    Args:
        folder: where the user says that the files are.
        spellings: names that the file goes by, the usual one first.
        below: folders below that archives are unpacked into.

    Raises:
        DataError: none is there.
    """
    for place in (folder, *(folder / each for each in below)):
        for name in spellings:
            if (place / name).is_file():
                return place / name
    others = f", nor {' or '.join(repr(each) for each in spellings[1:])}" if spellings[1:] else ""
    raise DataError(f"the folder {str(folder)!r} holds no file {spellings[0]!r}{others}: put the original file there.")


def damaged(path: Path, expected: str, found: str) -> DataError:
    """The error for a file that is not what it should be."""
    return DataError(f"the file {str(path)!r} is damaged or another one: expected {expected}, found {found}.")


def check(path: Path, part: Part, count: int, shape: tuple[int, int, int]) -> Part:
    """The part, if its numbers are what this file of the data set has.

    Args:
        path: where it was read from, for the error.
        part: what was read.
        count: how many images there should be.
        shape: channels, height and width that they should have.

    Raises:
        DataError: they are not.
    """
    wanted = (count, *shape)
    if part.images.shape != wanted or part.images.dtype != np.uint8:
        raise damaged(path, f"{_words(wanted)} bytes", f"{_words(part.images.shape)} of {part.images.dtype}")
    if part.labels.shape != (count,):
        raise damaged(path, f"{count} labels", f"{_words(part.labels.shape)}")
    if count and int(part.labels.max()) >= CLASSES:
        raise damaged(path, f"labels from 0 to {CLASSES - 1}", f"the label {int(part.labels.max())}")
    return part


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
