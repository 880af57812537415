"""What the command line calls MODEL, DATA and weights, of PyTorch: made, read and written."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from normwise.errors import MissingExtra, NormwiseError
from normwise.loading import arrays_of, attempt, called, check_folder, named_object, write_whole

__all__ = [
    "WEIGHTS",
    "attempt",
    "called",
    "check_weights_name",
    "load_batches",
    "load_model",
    "named_object",
    "save_weights",
]

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

    def write(name: str) -> None:
        if path.suffix == ".safetensors":
            _safetensors().save_model(model, name)
        else:
            torch.save(model.state_dict(), name)

    write_whole(path, write)


def check_weights_name(path: Path) -> None:
    """Refuse what is no file of weights, before minutes are spent on what would go into it.

    Raises:
        NormwiseError: the suffix is unknown, or the folder does not exist.
    """
    if path.suffix not in WEIGHTS:
        raise NormwiseError(f"weights are {', '.join(WEIGHTS)} files, received {str(path)!r}: give it such a name.")
    check_folder(path)


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
        arrays = {name: torch.from_numpy(array) for name, array in arrays_of(path, parameters).items()}
        self._arrays, self._size = arrays, size
        self._rows: int = next(iter(arrays.values())).shape[0]
        self._named = {*arrays} <= parameters

    def __len__(self) -> int:
        return math.ceil(self._rows / self._size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._rows, self._size):
            batch = {name: array[start : start + self._size] for name, array in self._arrays.items()}
            yield batch if self._named else next(iter(batch.values()))
