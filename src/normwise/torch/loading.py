"""What the command line calls MODEL, DATA and weights: found, imported, read and written."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from normwise.errors import MissingExtra, NormwiseError, UnknownName

Result = TypeVar("Result")

WEIGHTS = (".safetensors", ".pt", ".pth")


def load_model(place: str, weights: Path | None = None) -> nn.Module:
    """The model that ``file.py:callable`` or ``package.module:callable`` makes, with weights if a file is given.

    Args:
        place: the callable takes no argument and returns a ``torch.nn.Module``; a name that holds one serves too.
        weights: ``.safetensors``, or ``.pt`` that holds nothing but weights.

    Raises:
        NormwiseError: something of it is not there, fails, or does not fit; the sentence says what.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    found = named_object(place, "MODEL")
    model = found if isinstance(found, nn.Module) else called(found, place)
    if not isinstance(model, nn.Module):
        raise NormwiseError(
            f"{place} must return a torch.nn.Module, received {type(model).__name__}: return the model itself."
        )
    if weights is not None:
        _read_weights(model, weights)
    return model


def load_batches(place: str, model: nn.Module, batch_size: int) -> Any:
    """The batches of DATA: ``file.py:callable`` that returns an iterable of them, or an ``.npz``.

    Of an ``.npz``, the arrays that are named like parameters of the model's ``forward`` are its inputs; if none is,
    the first one.

    Args:
        place: as above; the callable takes no argument.
        model: for which they are.
        batch_size: rows per batch of an ``.npz``.

    Raises:
        NormwiseError: as ``load_model``.
    """
    if place.endswith(".npz"):
        return _Rows(Path(place), {*inspect.signature(model.forward).parameters}, batch_size)
    found = named_object(place, "DATA")
    return called(found, place) if callable(found) else found


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's ``state_dict``; the file is there with all of it, or is as it was.

    Raises:
        NormwiseError: a name that ends otherwise than weights do.
    """
    check_weights_name(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        if path.suffix == ".safetensors":
            _safetensors().save_model(model, name)
        else:
            torch.save(model.state_dict(), name)
        with Path(name).open("rb+") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(path.stat().st_mode if path.exists() else 0o666 & ~mask)  # mkstemp's files are private
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_weights_name(path: Path) -> None:
    """Refuse what is no file of weights, before minutes are spent on what would go into it.

    Raises:
        NormwiseError: the suffix is unknown, or the folder does not exist.
    """
    if path.suffix not in WEIGHTS:
        raise NormwiseError(f"weights are {', '.join(WEIGHTS)} files, received {str(path)!r}: give it such a name.")
    if not path.parent.is_dir():
        raise NormwiseError(f"there is no folder {str(path.parent)!r} for {path.name!r}: make it first.")


def named_object(place: str, what: str) -> Any:
    """What stands under a name in a file or a module, whatever it is.

    Args:
        place: ``file.py:name`` or ``package.module:name``.
        what: for an error, what the command line calls it.

    Raises:
        NormwiseError: the place is written otherwise, or its module cannot be imported.
        UnknownName: the module has no such name.

    Example:
        >>> named_object("math:pi", "DATA")
        3.141592653589793
    """
    source, _, name = place.rpartition(":")
    if not source or not name:
        raise NormwiseError(
            f"{what} is written file.py:callable or package.module:callable, received {place!r}: "
            "name the file and, behind a colon, what to call in it."
        )
    module = _imported(source)
    if not hasattr(module, name):
        raise UnknownName(f"name in {source}", name, [each for each in vars(module) if not each.startswith("_")])
    return getattr(module, name)


def _imported(source: str) -> ModuleType:
    """A file's module, which may import what lies beside it; or a module, here or where Python finds it."""
    file = Path(source)
    if file.suffix == ".py" and not file.is_file():
        raise NormwiseError(f"there is no file {source!r}: give the path from {str(Path.cwd())!r}.")
    beside = str(file.resolve().parent) if file.suffix == ".py" else str(Path.cwd())
    sys.path.insert(0, beside)
    try:
        if file.suffix != ".py":
            return importlib.import_module(source)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None  # a file that ends in .py has a specification and a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # dataclasses and pickle look it up there
        spec.loader.exec_module(module)
    except Exception as error:
        raise NormwiseError(f"{source} could not be imported: {_sentence(error)}.") from error
    else:
        return module
    finally:
        sys.path.remove(beside)


def called(found: Any, place: str) -> Any:
    """What the user's callable returns.

    Raises:
        NormwiseError: it is none, or it failed.
    """
    if not callable(found):
        raise NormwiseError(f"{place} must be callable, received {type(found).__name__}: name a function.")
    return attempt(found, f"{place}()")


def attempt(work: Callable[[], Result], place: str) -> Result:
    """What the user's code returns; its error in one sentence.

    Raises:
        NormwiseError: ``work`` failed; an error of normwise's own says enough and stays.
    """
    try:
        return work()
    except NormwiseError:
        raise
    except Exception as error:
        raise NormwiseError(f"{place} failed: {_sentence(error)}.") from error


_PACKAGE = Path(__file__).resolve().parent.parent


def _sentence(error: Exception) -> str:
    """Kind, place and first line of an error in the user's code."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")]
    first = str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
    if frames and Path(frames[-1].filename).is_relative_to(_PACKAGE):  # normwise's own words about what it was given
        return first
    where = f" in line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return f"{type(error).__name__}{where}: {first}" if first else f"{type(error).__name__}{where}"


def _read_weights(model: nn.Module, path: Path) -> None:
    check_weights_name(path)
    if not path.is_file():
        raise NormwiseError(f"there is no file {str(path)!r}: give the path of the weights.")
    try:
        if path.suffix == ".safetensors":
            _safetensors().load_model(model, path)
        else:
            model.load_state_dict(_state_dict(path))
    except (MissingExtra, NormwiseError):
        raise
    except Exception as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise NormwiseError(
            f"{str(path)!r} could not be loaded into {type(model).__name__}: {lines[:300].rstrip('. ')}."
        ) from error


def _state_dict(path: Path) -> Any:
    """What stands in a .pt; a whole checkpoint may have it under ``state_dict`` or ``model``."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    if not isinstance(found, Mapping):
        raise NormwiseError(
            f"{str(path)!r} must hold a state_dict, received {type(found).__name__}: save model.state_dict()."
        )
    return found


def _safetensors() -> ModuleType:
    try:
        return importlib.import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        raise MissingExtra("safetensors", extra="torch") from error


class _Rows:
    """The rows of the arrays of an ``.npz``, some at a time."""

    def __init__(self, path: Path, parameters: set[str], size: int) -> None:
        if not path.is_file():
            raise NormwiseError(f"there is no file {str(path)!r}: give the path of the data.")
        try:
            with np.load(path, allow_pickle=False) as archive:
                names = [name for name in archive.files if name in parameters] or archive.files[:1]
                arrays = {name: torch.from_numpy(archive[name]) for name in names}
        except (ValueError, TypeError, OSError) as error:
            raise NormwiseError(f"{str(path)!r} could not be read as arrays: {_sentence(error)}.") from error
        lengths = {name: len(array) if array.dim() else 0 for name, array in arrays.items()}
        if not arrays or len({*lengths.values()}) > 1:
            raise NormwiseError(
                f"the arrays of {str(path)!r} must have one row per sample, received {lengths or 'none'}: "
                "save them with the same number of rows."
            )
        self._arrays, self._size, self._rows = arrays, size, next(iter(lengths.values()))
        self._named = {*arrays} <= parameters

    def __len__(self) -> int:
        return math.ceil(self._rows / self._size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._rows, self._size):
            batch = {name: array[start : start + self._size] for name, array in self._arrays.items()}
            yield batch if self._named else next(iter(batch.values()))
