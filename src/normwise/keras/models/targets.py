"""The targets in a batch, and the outputs of a model, as arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from numpy.typing import NDArray

from normwise.archives import TARGETS
from normwise.errors import UnknownName
from normwise.keras.models.feeding import ForwardFn, as_this_backends, number_of_inputs, samples_in


def targets_of(model: Any, batch: Any, forward_fn: ForwardFn | None) -> Any:
    """The y of (x, y) and (x, y, weights); what stands behind the n inputs of a model; a mapping's, by the usual names.

    Args:
        model: it is looked at, not called.
        batch: one batch.
        forward_fn: how a batch enters the model; the first item is then taken for the input.

    Returns:
        arrays as tensors of this backend, as what the model gives is, in Keras's default precision where they are of
        floating-point numbers, as in ``fit``; None where there is nothing.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> targets_of(model, ("images", "labels", "weights"), None), targets_of(model, "images", None)
        ('labels', None)
    """
    if isinstance(batch, Mapping):
        return _tensors(next((batch[name] for name in TARGETS if name in batch), None))
    if not isinstance(batch, tuple | list):
        return None
    nested = bool(batch) and isinstance(batch[0], tuple | list | Mapping)
    number = 1 if forward_fn is not None or nested else number_of_inputs(model)
    taken = number if len(batch) >= number else 1
    return _tensors(batch[taken]) if len(batch) > taken else None


def outputs_first(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A loss or metric as a function of outputs and targets, from Keras's own, which take the targets first.

    Args:
        function: an object of ``keras.losses.Loss`` or ``keras.metrics.Metric``, which gathers nothing then; a function
            of Keras; or a function of outputs and targets, which is given back.

    Example:
        >>> loss = outputs_first(keras.losses.MeanAbsolutePercentageError())
        >>> float(loss(np.array([[1.0]]), np.array([[2.0]])))  # 1 away from 2
        50.0
    """
    if isinstance(function, keras.metrics.Metric):
        kind, config = type(function), function.get_config()
        return lambda outputs, targets: kind.from_config(config)(targets, outputs)
    own = function.func if isinstance(function, partial) else function
    if isinstance(own, keras.losses.Loss) or str(getattr(own, "__module__", "")).startswith("keras."):
        return lambda outputs, targets: function(targets, outputs)
    return function


def by_name(function: Any, kind: str) -> Any:
    """A loss or metric of Keras by its name; what is no name is given back.

    Args:
        function: for a metric, ``"accuracy"`` and ``"acc"`` are that of the shapes, as in ``compile``.
        kind: ``"loss"`` or ``"metric"``.

    Raises:
        UnknownName: Keras has none of this name.

    Example:
        >>> by_name("mse", "loss").__name__, by_name(len, "loss").__name__
        ('mean_squared_error', 'len')
    """
    if not isinstance(function, str):
        return function
    if kind == "metric" and function.lower() in ("accuracy", "acc"):
        return _accuracy
    room = keras.losses if kind == "loss" else keras.metrics
    try:
        return room.get(function)
    except ValueError as error:
        known = {name for name, each in vars(room).items() if name.islower() and inspect.isfunction(each)}
        raise UnknownName(f"{kind} of Keras", function, sorted(known - {"deserialize", "get", "serialize"})) from error


def _accuracy(outputs: Any, targets: Any) -> Any:
    """The accuracy that Keras chooses by the shapes: of one output, of one-hot targets, or of classes."""
    if outputs.shape[-1] == 1:
        return keras.metrics.binary_accuracy(targets, outputs)
    if tuple(targets.shape) == tuple(outputs.shape):
        return keras.metrics.categorical_accuracy(targets, outputs)
    return keras.metrics.sparse_categorical_accuracy(targets, outputs)


def labels_in(targets: Any) -> NDArray[np.float64] | None:
    """One number per sample, of one-hot rows the place of the 1; None where the targets are none.

    Example:
        >>> labels_in(np.array([[0, 1], [1, 0], [0, 1]])), labels_in(np.array([[3], [4]])), labels_in("none")
        (array([1., 0., 1.]), array([3., 4.]), None)
    """
    if not (ops.is_tensor(targets) or isinstance(targets, np.ndarray)) or not len(targets.shape):
        return None
    values = _numbers(targets)
    if (
        values.ndim == 2
        and values.shape[1] > 1
        and ((values == 0) | (values == 1)).all()
        and (values.sum(1) == 1).all()
    ):
        values = values.argmax(1).astype(np.float64)
    return values.reshape(-1) if values.size == len(values) else None


def outputs_in(result: Any) -> NDArray[np.float64] | None:
    """The first array of floating-point numbers that a model gave, a row for each sample; None where there is none.

    Example:
        >>> outputs_in({"ids": np.array([1, 2]), "scores": np.array([[1.0], [2.0]])}).tolist()
        [[1.0], [2.0]]
    """
    for item in tree.flatten(result):
        is_array = ops.is_tensor(item) or isinstance(item, np.ndarray)
        if is_array and len(item.shape) and "float" in keras.backend.standardize_dtype(item.dtype):
            values = _numbers(item)
            return values.reshape(len(values), -1)
    return None


def part_of(batch: Any, rows: Sequence[int]) -> Any:
    """A batch of some samples of a batch; None where it cannot be cut.

    Example:
        >>> part_of((np.array([[1.0], [2.0], [3.0]]), np.array([7, 8, 9])), [0, 2])[1].tolist()
        [7, 9]
    """
    batch = as_this_backends(batch)
    number = samples_in(batch)
    if not number or any(type(item).__name__ in ("RaggedTensor", "SparseTensor") for item in tree.flatten(batch)):
        return None

    def cut(item: Any) -> Any:
        if isinstance(item, np.ndarray) and item.ndim and len(item) == number:
            return item[list(rows)]
        if ops.is_tensor(item) and len(item.shape) and item.shape[0] == number:
            return ops.take(item, np.asarray(rows, dtype="int32"), axis=0)
        return item

    return tree.map_structure(cut, batch)


def _tensors(targets: Any) -> Any:
    def converted(item: Any) -> Any:
        if not isinstance(item, np.ndarray) or item.dtype.kind not in "biuf":
            return item
        return ops.convert_to_tensor(item, dtype=keras.config.floatx() if item.dtype.kind == "f" else None)

    return tree.map_structure(converted, as_this_backends(targets))


def _numbers(array: Any) -> NDArray[np.float64]:
    return np.asarray(ops.convert_to_numpy(array)).astype(np.float64)
