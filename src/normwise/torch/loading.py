"""What the command line calls MODEL, DATA and weights, of PyTorch: made, read and written."""

from __future__ import annotations

import importlib
import inspect
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import torch
from torch import nn

from normwise.archives import arrays_of
from normwise.errors import MissingExtra, NormwiseError
from normwise.failures import first_words
from normwise.loading import WEIGHTS, called, check_file, check_suffix, check_target, named_object, write_whole


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
        NormwiseError: the suffix is unknown, or it could not be written.
    """
    check_suffix(path, WEIGHTS, "weights are")
    check_target(path)


def check_device_name(name: str) -> None:
    """Refuse what is no device of PyTorch's, or none that holds values.

    Raises:
        NormwiseError: there is no such kind of device.
    """
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = "meta"
    if kind == "meta":
        raise NormwiseError(f"--device must be a device of PyTorch's, received {name!r}: give for example cpu or cuda.")


def check_device(name: str) -> None:
    """Refuse a device that is not here.

    Raises:
        NormwiseError: PyTorch cannot put a tensor there; the sentence has its words.
    """
    try:
        torch.zeros(1, device=name)
    except Exception as error:
        raise NormwiseError(
            f"--device {name} cannot be used here: {first_words(error)}; leave it out to use the device of the model."
        ) from error


def _read_weights(model: nn.Module, path: Path) -> None:
    check_suffix(path, WEIGHTS, "weights are")
    check_file(path, "the weights")
    if path.suffix == ".safetensors":
        state: Any = _attempt_to_read(lambda: _safetensors().load_file(path), path)
    else:
        state = _state_dict(path)
    try:
        if path.suffix == ".safetensors":
            _safetensors().load_model(model, path)  # which knows of weights that layers share
        else:
            model.load_state_dict(state)
    except Exception as error:
        words = _difference(model, state) or " ".join(str(error).split())[:300].rstrip(". ")
        raise NormwiseError(f"{str(path)!r} does not fit {type(model).__name__}: {words}.") from error


def _difference(model: nn.Module, state: Mapping[str, Any]) -> str:
    """How the names or shapes of weights differ from the model's, and what to do where that is known."""
    own = model.state_dict()
    missing, more = [name for name in own if name not in state], [name for name in state if name not in own]
    if missing and all(str(name).startswith("module.") for name in state):
        return "its names begin with 'module.', as DataParallel has them; save model.module.state_dict()"
    words = [f"{verb} {_few(names)}" for verb, names in (("it lacks", missing), ("it has besides", more)) if names]
    for name in own:
        if name in state and not words and getattr(state[name], "shape", None) != own[name].shape:
            words.append(f"{name!r} has the shape {[*state[name].shape]} there and {[*own[name].shape]} in the model")
    return ", and ".join(words)


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _state_dict(path: Path) -> Any:
    """What stands in a .pt; a whole checkpoint may have it under ``state_dict`` or ``model``."""
    found = _attempt_to_read(lambda: torch.load(path, map_location="cpu", weights_only=True), path)
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    if not isinstance(found, Mapping):
        raise NormwiseError(
            f"{str(path)!r} must hold a state_dict, received {type(found).__name__}: save model.state_dict()."
        )
    return found


def _attempt_to_read(read: Callable[[], Any], path: Path) -> Any:
    try:
        return read()
    except MissingExtra:
        raise
    except Exception as error:
        if isinstance(error, UnpicklingError) and zipfile.is_zipfile(path):
            raise NormwiseError(
                f"{str(path)!r} holds more than weights, and code in it is not run: save model.state_dict() alone."
            ) from error
        raise NormwiseError(f"{str(path)!r} is no {path.suffix} file, or a damaged one: write it again.") from error


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
