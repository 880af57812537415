"""A file of weights read without running code that it may bring; one sentence for every file that is none."""

from __future__ import annotations

import argparse
import importlib
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import numpy as np
import torch

from normwise.errors import MissingExtra, NormwiseError
from normwise.loading import READABLE, check_file, check_suffix

# Beside weights, checkpoints often hold the options of the program that wrote them and a best score, which NumPy
# computed. Reading those runs no code, and PyTorch refuses what it is not told.
_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]  # its type says str or tuple
_PLAIN: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(each)) for each in ("float16", "float32", "float64", "int32", "int64", "bool")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


def held_by(path: Path) -> Any:
    """The content of a file: of ``.safetensors`` the tensors, of others what ``torch.save`` wrote.

    Args:
        path: of the file; what it is follows from its suffix.

    Raises:
        NormwiseError: there is no such file, it is damaged, or it holds objects that run code when they are read.
    """
    check_suffix(path, READABLE, "a file of weights")
    check_file(path, "the weights")
    try:
        if path.suffix == ".safetensors":
            return safetensors().load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
            warnings.simplefilter("ignore")  # PyTorch warns of TorchScript and then refuses it
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MissingExtra:
        raise
    except Exception as error:
        raise NormwiseError(_reason(path, error)) from error
    _check_sums(path)
    return found


def safetensors() -> ModuleType:
    """The library ``safetensors``, for PyTorch.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        raise MissingExtra("safetensors", extra="torch") from error


def _check_sums(path: Path) -> None:
    """Refuse an archive that has a damaged part, which PyTorch reads without an error."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        summed = [each.filename for each in archive.infolist() if each.CRC]  # PyTorch can be told to write 0 instead
        wrong = next((name for name in summed if not _is_whole(archive, name)), None)
    if wrong is not None:
        raise NormwiseError(f"{str(path)!r} is damaged, {wrong!r} in it has another checksum: write it again.")


def _is_whole(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as member:
            while member.read(1 << 20):
                pass
    except (zipfile.BadZipFile, zlib.error):
        return False
    return True


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not read; PyTorch's own words advise to let its code run."""
    remedy = "where it comes from, save the state_dict alone, with torch.save."
    if _is_program(path):
        return f"{str(path)!r} is a TorchScript program, and code in it is not run: {remedy}"
    names = None if path.suffix == ".safetensors" else _objects(path, error)
    if names is None:
        return f"{str(path)!r} is no {path.suffix} file, or a damaged one: write it again."
    which = f" ({', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''})" if names else ""
    return (
        f"{str(path)!r} holds more than weights, pickled objects{which} that can run code when they are read, and was "
        f"not read: {remedy}"
    )


def _is_program(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _objects(path: Path, error: Exception) -> list[str] | None:
    """The classes and functions that reading the file would call; None where that was not why it was not read."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    archive = zipfile.is_zipfile(path)
    if named is None and not (isinstance(error, UnpicklingError) and (archive or _is_pickle(path))):
        return None
    try:
        with torch.serialization.safe_globals(_PLAIN):
            names = [*torch.serialization.get_unsafe_globals_in_checkpoint(path)] if archive else []
    except Exception:  # it looks through the pickle as far as it understands that, and fails in many ways
        names = []
    found = {*names, *([named[1]] if named else [])}
    return sorted(name for name in found if re.fullmatch(r"[\w.]{1,100}", name))


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"
