"""The MODEL, the DATA and the weights of the command line, for PyTorch: made, read and written."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from normwise.archives import Cast, arrays_of
from normwise.errors import NormwiseError
from normwise.failures import first_words
from normwise.frameworks import framework_of
from normwise.loading import WEIGHTS, called, check_suffix, check_target, named_object, write_whole
from normwise.torch.models.checkpoint_files import safetensors
from normwise.torch.models.checkpoints import load_weights

Tell = Callable[[str], None]


def load_model(place: str, weights: Path | None = None, *, tell: Tell = lambda _: None) -> nn.Module:
    """The model that ``file.py:callable`` or ``package.module:callable`` makes, with weights if a file is given.

    Args:
        place: the callable takes no argument and returns a ``torch.nn.Module``; a name that holds one serves too.
        weights: ``.safetensors``, ``.pt`` or another that ``torch.save`` wrote; ``file.pt:key`` takes one of several.
        tell: is told what was done to make weights fit.

    Raises:
        NormwiseError: something of it is not there, fails, or does not fit; the sentence says what.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    found = named_object(place, "MODEL")
    model = found if isinstance(found, nn.Module) else called(found, place)
    if not isinstance(model, nn.Module):
        remedy = "return the model itself"
        if framework_of(model) == "keras":
            remedy = "save a Keras model to a .keras file and give that, or call normwise from Python"
        raise NormwiseError(f"{place} must return a torch.nn.Module, received {type(model).__name__}: {remedy}.")
    if weights is not None:
        load_weights(model, weights, tell)
    return model


def load_batches(
    place: str, model: nn.Module, batch_size: int, *, scale: float | None = None, tell: Tell = lambda _: None
) -> Any:
    """The batches of DATA: ``file.py:callable`` that returns an iterable of them, or an ``.npz``.

    Of an ``.npz``, the arrays that are named like parameters of the model's ``forward`` are its inputs; if none is,
    the first one. They are cast to the model's dtype, except integers of 32 and 64 bits.

    Args:
        place: as above; the callable takes no argument.
        model: for which they are.
        batch_size: rows per batch of an ``.npz``.
        scale: what its values are multiplied by.
        tell: is told which array is taken and how it is cast.

    Raises:
        NormwiseError: as ``load_model``.
    """
    if place.endswith(".npz"):
        return _Rows(model, batch_size, Cast(Path(place), scale, tell))
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
            safetensors().save_model(model, name)
        else:
            torch.save(model.state_dict(), name)

    write_whole(path, write)


def check_weights_name(path: Path) -> None:
    """Refuse what is no file of weights, before minutes are spent on what would go into it.

    Raises:
        NormwiseError: the suffix is unknown, or it could not be written.
    """
    check_suffix(path, WEIGHTS, "a file of weights")
    check_target(path)


def check_device_name(name: str) -> None:
    """Refuse what is no PyTorch device, or none that holds values.

    Raises:
        NormwiseError: there is no such kind of device.
    """
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = "meta"
    if kind == "meta":
        raise NormwiseError(f"--device must be a PyTorch device, received {name!r}: give for example cpu or cuda.")


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


class _Rows:
    """The rows of the arrays of an ``.npz``, some at a time, cast as they are needed."""

    def __init__(self, model: nn.Module, size: int, cast: Cast) -> None:
        parameters = {*inspect.signature(model.forward).parameters}
        self._arrays = arrays_of(cast.path, parameters, cast.tell)
        self._rows = len(next(iter(self._arrays.values())))
        self._named = {*self._arrays} <= parameters
        self._size, self._cast, self._dtype = size, cast, _dtype_of(model)
        # NumPy has no bfloat16.
        self._through = "float32" if self._dtype == torch.bfloat16 else str(self._dtype).removeprefix("torch.")
        cast.says(self._arrays, dict.fromkeys(self._arrays, self._through))

    def __len__(self) -> int:
        return math.ceil(self._rows / self._size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._rows, self._size):
            batch = {name: self._tensor(array[start : start + self._size]) for name, array in self._arrays.items()}
            yield batch if self._named else next(iter(batch.values()))

    def _tensor(self, rows: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.from_numpy(self._cast(rows, self._through))
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


def _dtype_of(model: nn.Module) -> torch.dtype:
    """The model's first floating-point dtype that NumPy can come to."""
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype in known:
            return tensor.dtype
    return torch.float32
