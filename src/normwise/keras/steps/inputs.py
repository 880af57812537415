"""Inputs of a layer that are no dense tensors: ragged, nested and sparse ones, and NumPy's arrays."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from normwise.keras.steps.checks_mask import along_input


class Given(NamedTuple):
    """The arguments of a layer's call, in dense tensors.

    Attributes:
        inputs: the channels are as far from the last axis as they were.
        mask: booleans with the axes of ``inputs`` or 1, or None.
        residual: the shape of ``inputs``, or None.
        samples: which sample each row of ``inputs`` is of, and how many there are; None where a row is a sample.
        back: an output in the structure of what was given.
    """

    inputs: Any
    mask: Any
    residual: Any
    samples: tuple[Any, Any] | None
    back: Callable[[Any], Any]

    def values_per_sample(self, axis: int) -> float:
        """The mean number of values of a channel in a sample, masked ones included; 1 at least."""
        shape = self.inputs.shape
        number = shape[0] if self.samples is None else int(self.samples[1])
        values: float = math.prod(shape) / shape[axis] / max(1, number)
        return max(1.0, values)


def given(inputs: Any, mask: Any, residual: Any, axis: int) -> Given:
    """Take ragged TensorFlow tensors and nested PyTorch tensors as the values that exist, one after the other.

    Sparse tensors are made dense, as the output is: a mean that is not 0 leaves no zero where it was.

    Args:
        inputs: any tensor of the backend's, or a NumPy array.
        mask: as the layer takes it; ragged or nested as the inputs are.
        residual: the same.
        axis: of the channels, counted from the last one, below 0.

    Raises:
        ValueError: a mask or a residual that does not fit, or an axis of channels that is not of one length.

    Example:
        >>> given(np.ones((2, 3)), None, None, -1).inputs.shape == (2, 3)
        True
    """
    values, residual = dense(inputs), None if residual is None else dense(residual)
    split = _split(values)
    if split is None:
        check_residual(residual, values)
        return Given(values, None if mask is None else along_input(dense(mask), values, axis), residual, None, _same)
    if -axis > len(split.values.shape) - 1:
        shape = shape_of(inputs)
        raise ValueError(
            f"channels must lie along an axis that is uniform, received axis={axis % len(shape)} for a ragged tensor "
            f"of shape {shape}: pass axis=-1, or make the axes behind it uniform."
        )
    mask, residual = (_like(split, each, name) for each, name in ((mask, "mask"), (residual, "residual")))
    check_residual(residual, split.values)
    if mask is not None:
        mask = along_input(mask, split.values, axis)
    return Given(split.values, mask, residual, split.samples, split.back)


def check_residual(residual: Any, inputs: Any) -> None:
    """Refuse a residual that has not the shape of the input, as far as both are known."""
    if residual is None:
        return
    mine, theirs = tuple(residual.shape), tuple(inputs.shape)
    if len(mine) != len(theirs) or any(
        a is not None and b is not None and a != b for a, b in zip(mine, theirs, strict=True)
    ):
        raise ValueError(
            f"residual must have the shape of the inputs, {theirs}, received {mine}: expand it or project it first."
        )


def dense(tensor: Any) -> Any:
    """A sparse tensor, a NumPy array or a list as a dense tensor of the backend's; any other as it is.

    Raises:
        TypeError: of something else than real numbers.
    """
    if isinstance(tensor, np.ndarray | list | tuple | bool | int | float):
        tensor = ops.convert_to_tensor(tensor)
    backend = keras.backend.backend()
    if backend == "torch":
        torch = sys.modules["torch"]
        found = tensor if tensor.layout in (torch.strided, torch.jagged) else tensor.to_dense()
    elif backend == "jax":
        found = tensor.todense() if hasattr(tensor, "todense") else tensor
    else:
        tf = sys.modules["tensorflow"]
        found = tf.sparse.to_dense(tensor) if isinstance(tensor, tf.SparseTensor) else tensor
        found = tf.convert_to_tensor(found) if isinstance(found, tf.IndexedSlices) else found
    dtype = keras.backend.standardize_dtype(found.dtype)
    if dtype == "string" or dtype.startswith("complex"):
        raise TypeError(
            f"the inputs must be real numbers, received {dtype}: convert them first, complex numbers for example into "
            "two channels."
        )
    return found


def shape_of(tensor: Any) -> tuple[int | None, ...]:
    """The shape with None for a length that samples do not share."""
    return tuple(length if isinstance(length, int) else None for length in tensor.shape)


class _Split(NamedTuple):
    """A ragged tensor: the values that exist, of which sample each is, where samples end, and how to join them."""

    values: Any
    samples: tuple[Any, Any]
    ends: list[Any]
    back: Callable[[Any], Any]


def _split(tensor: Any) -> _Split | None:
    """The parts of a tensor that is ragged; None of others."""
    if keras.backend.backend() == "torch":
        return _split_nested(tensor) if getattr(tensor, "is_nested", False) else None
    if keras.backend.backend() == "tensorflow" and isinstance(tensor, sys.modules["tensorflow"].RaggedTensor):
        return _split_ragged(tensor)
    return None


def _split_ragged(ragged: Any) -> _Split:
    tf = sys.modules["tensorflow"]
    *outer, of_rows = ragged.nested_value_rowids()
    for ids in reversed(outer):
        of_rows = tf.gather(ids, of_rows)
    ends = list(ragged.nested_row_splits)
    samples = (tf.cast(of_rows, "int32"), tf.cast(ragged.nrows(), "int32"))  # row splits are in int64, ops.shape is not
    return _Split(ragged.flat_values, samples, ends, ragged.with_flat_values)


def _split_nested(nested: Any) -> _Split:
    torch = sys.modules["torch"]
    if isinstance(nested.shape[1], int) or nested.lengths() is not None:
        raise ValueError(
            f"a nested tensor must be ragged along axis 1 and contiguous, received one of shape {shape_of(nested)}: "
            "call contiguous() on it, or transpose it back."
        )
    ends = nested.offsets()
    number = len(ends) - 1
    of_rows = torch.repeat_interleave(torch.arange(number, device=ends.device), ends.diff())

    def back(values: Any) -> Any:
        return torch.nested.nested_tensor_from_jagged(values, ends)

    return _Split(nested.values(), (of_rows, number), [ends], back)


def _like(split: _Split, tensor: Any, name: str) -> Any:
    """The values of a mask or a residual of ragged inputs."""
    if tensor is None:
        return None
    other = _split(tensor)
    if other is None:
        raise ValueError(
            f"{name} must be ragged as the inputs are, received a dense one of shape {shape_of(tensor)}: "
            "split it into the same samples."
        )
    known = [(mine, theirs) for mine, theirs in zip(split.ends, other.ends, strict=False) if _is_known(mine, theirs)]
    if len(split.ends) != len(other.ends) or not all(
        np.array_equal(ops.convert_to_numpy(mine), ops.convert_to_numpy(theirs)) for mine, theirs in known
    ):
        raise ValueError(
            f"{name} must be split into the same samples as the inputs, received other lengths of samples: "
            "build both from the same row splits."
        )
    return other.values


def _is_known(*tensors: Any) -> bool:
    """True if the tensors have values already, outside of TensorFlow's graph."""
    return all(hasattr(tensor, "numpy") for tensor in tensors)


def _same(tensor: Any) -> Any:
    return tensor
