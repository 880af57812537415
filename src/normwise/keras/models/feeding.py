"""The rules by which batches of any structure enter a Keras model, whatever they hold beside its inputs."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from normwise.entering import add_note
from normwise.errors import NormwiseError
from normwise.frameworks import with_article

ForwardFn = Callable[[Any, Any], Any]


def batches_of(data: Any, batch_size: int, *, at_most: int | None, called: str) -> Iterable[Any]:
    """Data as an iterable of batches, as Keras's ``fit`` and ``predict`` take them.

    * An array or a tensor holds all samples along its first axis; a tuple of arrays is (x, y) or (x, y, weights), a
      mapping of arrays has one for each name. They are cut into batches.
    * A ``tf.data.Dataset``, a ``keras.utils.PyDataset``, a PyTorch ``DataLoader``, a list or anything else that can be
      gone through holds batches.

    Args:
        data: as above.
        batch_size: rows per batch of arrays.
        at_most: how many batches are wanted; None for all.
        called: the operation, for the errors.

    Raises:
        NormwiseError: arrays of different lengths, or batches without end and no ``at_most``.

    Example:
        >>> [x.shape for x, y in batches_of((np.zeros((5, 2)), np.zeros(5)), 4, at_most=None, called="recalibrate")]
        [(4, 2), (1, 2)]
    """
    arrays = data.values() if isinstance(data, Mapping) else data if isinstance(data, tuple) else (data,)
    if arrays and all(_is_array(each) for each in arrays):
        return Rows(data, batch_size, called=called)
    if at_most is None and _endless(data):
        raise NormwiseError(
            f"{called} received batches without an end ({type(data).__name__}): state how many to use, with at_most or "
            "--batches."
        )
    return data  # type: ignore[no-any-return]  # whether it is one is asked where it is gone through


class Rows:
    """Arrays of the same length, some rows at a time.

    Args:
        data: an array, a tuple of arrays, or a mapping of them.
        size: rows per batch; the last one has what is left.
        called: the operation, for the errors.

    Raises:
        NormwiseError: they are not of the same length, or a batch size that is none.
    """

    def __init__(self, data: Any, size: int, *, called: str) -> None:
        if not hasattr(size, "__index__") or size < 1:
            raise NormwiseError(f"{called} needs batches of 1 sample or more, received batch_size={size!r}: pass 32.")
        lengths = {len(each) for each in tree.flatten(dict(data) if isinstance(data, Mapping) else data)}
        if len(lengths) > 1:
            raise NormwiseError(
                f"{called} needs arrays with one row per sample, received arrays of {sorted(lengths)} rows: "
                "pass a list of batches if that is what they are."
            )
        self._data = dict(data) if isinstance(data, Mapping) else data
        self._size, self._rows = size, lengths.pop()

    def __len__(self) -> int:
        return math.ceil(self._rows / self._size)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._rows, self._size):
            yield tree.map_structure(lambda array, start=start: array[start : start + self._size], self._data)


def inputs_of(model: Any, batch: Any) -> Any:
    """The part of a batch that goes into the model.

    * Of a tuple or list the first item, as in (x, y) and (x, y, weights). A model with n inputs gets the first n, if
      the first is not itself a tuple, list or mapping.
    * Of a mapping, the items that are named like the inputs of a functional model; it goes in whole where none are.
    * Anything else as it is.

    Args:
        model: it is looked at, not called.
        batch: one batch.

    Example:
        >>> model = keras.Sequential([keras.Input((2,), name="image"), keras.layers.Dense(3)])
        >>> inputs_of(model, ("images", "labels")), inputs_of(model, {"image": "images", "label": "labels"})
        ('images', 'images')
    """
    inputs, number = _inputs(model), number_of_inputs(model)
    if isinstance(batch, tuple | list) and batch:
        nested = isinstance(batch[0], tuple | list | Mapping)
        batch = batch[0] if number <= 1 or nested or len(batch) < number else list(batch[:number])
    if isinstance(batch, Mapping) and inputs:
        structure = getattr(model, "input", None)  # which a sequential one has not
        names = [*structure] if isinstance(structure, Mapping) else [each.name for each in inputs]
        if all(name in batch for name in names):
            if isinstance(structure, Mapping):
                return {name: batch[name] for name in names}
            return [batch[name] for name in names] if len(names) > 1 else batch[names[0]]
    return batch


def number_of_inputs(model: Any) -> int:
    """The number of tensors that go into a model: its inputs, or the arguments that its ``call`` needs.

    Example:
        >>> number_of_inputs(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]))
        1
    """
    return len(_inputs(model)) or _arguments(model)


def _inputs(model: Any) -> list[Any]:
    """The inputs of a functional or sequential model; none of others."""
    try:
        return list(getattr(model, "inputs", None) or ())
    except (AttributeError, ValueError):  # a sequential one that does not know its input yet
        return []


def _arguments(model: Any) -> int:
    """The number of arguments that the ``call`` of a model needs."""
    found = inspect.signature(model.call).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len(
        [each for each in found if each.kind in plain and each.default is each.empty and each.name != "training"]
    )


def call(model: Any, batch: Any, forward_fn: ForwardFn | None = None) -> Any:
    """One batch through the model in inference mode, without gradients; an error says which rule was applied.

    Args:
        model: built.
        batch: of the structures in ``inputs_of``, or anything that ``forward_fn`` understands.
        forward_fn: ``forward_fn(model, batch)`` instead of ``model(inputs_of(model, batch), training=False)``.

    Example:
        >>> call(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]), (np.ones((4, 2)), np.ones(4))).shape[1]
        3
    """
    with without_gradients():
        return forward(model, batch, forward_fn)


def layer_of(_: Any, error: BaseException) -> str:
    """The layer or the class that Keras names in its message; empty where it names none."""
    named = re.search(r"\blayer ['\"]([^'\"]+)['\"]", str(error))
    called = re.match(r"Exception encountered when calling (\w+\.call\(\))", str(error))
    return f"layer {named[1]!r}" if named else called[1] if called else ""


def forward(model: Any, batch: Any, forward_fn: ForwardFn | None) -> Any:
    """Do what ``call`` does, with gradients where the caller wants some."""
    batch = as_this_backends(batch)
    if forward_fn is not None:
        return forward_fn(model, batch)
    inputs = inputs_of(model, batch)
    try:
        if isinstance(inputs, list) and not _inputs(model) and _arguments(model) == len(inputs) > 1:
            return model(*inputs, training=False)
        return model(inputs, training=False)
    except Exception as error:
        called = f"{type(model).__name__} was called with {with_article(type(inputs).__name__)}"
        remedy = "batch the data first, for example dataset.batch(32)" if _unbatched(model, inputs) else ""
        remedy = remedy or _one_of_several(model, inputs)
        add_note(error, called, batch, layer_of(model, error), remedy)
        raise


def _unbatched(model: Any, inputs: Any) -> bool:
    """True if every input has the shape of one sample, as those of a dataset have that nobody has batched."""
    wanted, given = _inputs(model), tree.flatten(inputs)
    return len(wanted) == len(given) > 0 and all(
        len(want.shape) > 1
        and len(getattr(have, "shape", ())) == len(want.shape) - 1
        and all(size in (None, had) for size, had in zip(want.shape[1:], have.shape, strict=True))
        for want, have in zip(wanted, given, strict=True)
    )


def _one_of_several(model: Any, inputs: Any) -> str:
    """The remedy where a model of several inputs got one array, as it does if a list of its inputs is gone through."""
    number = len(_inputs(model))
    if number < 2 or not _is_array(inputs):
        return ""
    names = ", ".join(f"x{position}" for position in range(1, number + 1))
    return (
        f"the model has {number} inputs: pass a tuple ({names}), because a list is read as batches, one after another"
    )


def as_this_backends(batch: Any) -> Any:
    """The batch with the tensors of other frameworks as NumPy arrays, which every backend takes."""

    def converted(item: Any) -> Any:
        if ops.is_tensor(item) or isinstance(item, np.ndarray):
            return item
        if hasattr(item, "detach"):
            return item.detach().cpu().numpy()
        return item.numpy() if hasattr(item, "numpy") and hasattr(item, "shape") else item

    return tree.map_structure(converted, batch)


def without_gradients() -> AbstractContextManager[Any]:
    """A context in which outputs on torch do not keep their inputs; one that does nothing on other backends."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    found: AbstractContextManager[Any] = sys.modules["torch"].no_grad()
    return found


def samples_in(batch: Any) -> int:
    """The length of the first array found in a batch; 0 where there is none.

    Example:
        >>> samples_in({"x": (np.zeros((5, 2)), np.zeros(3))})
        5
    """
    for item in tree.flatten(batch):
        if _is_array(item):
            return int(item.shape[0])
    return 0


def _is_array(item: Any) -> bool:
    shape = getattr(item, "shape", None)
    return shape is not None and len(shape) > 0 and not callable(shape)


def _endless(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1  # tf.data.INFINITE_CARDINALITY
