"""Inputs that are no dense tensors of the backend's: ragged, nested, sparse ones and NumPy arrays."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import pytest

from normwise.keras import BatchNormalization, GhostBatchNormalization
from tests.keras.calls import BACKEND, values

tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow has ragged tensors")
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="PyTorch has nested tensors")
RAGGED = [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]]
FLAT = np.array([[1, 2], [3, 4], [5, 6]], "float32")


def split(lists: Any) -> Any:
    """Samples of different lengths in the structure that the backend has for them."""
    if BACKEND == "tensorflow":
        return sys.modules["tensorflow"].ragged.constant(lists, ragged_rank=1, dtype="float32")
    torch: Any = sys.modules["torch"]
    return torch.nested.nested_tensor([torch.tensor(each) for each in lists], layout=torch.jagged)


def joined(tensor: Any) -> Any:
    """The values of all samples, one after the other."""
    if BACKEND == "tensorflow":
        return tensor.flat_values.numpy()
    return tensor.values().detach().cpu().numpy()


needs_split = pytest.mark.skipif(BACKEND == "jax", reason="JAX has no tensors of samples of different lengths")


@needs_split
def test_the_values_that_exist_are_normalized_in_training() -> None:
    layer = BatchNormalization()
    y = layer(split(RAGGED), training=True)
    assert type(y) is type(split(RAGGED))
    np.testing.assert_allclose(joined(y), np.repeat([[-1.2245], [0], [1.2245]], 2, axis=1), atol=1e-3)
    np.testing.assert_allclose(values(layer.moving_mean), [0.03, 0.04], rtol=1e-5)


@needs_split
@pytest.mark.parametrize("activation", [None, "relu"])
def test_ragged_inputs_in_inference_and_with_a_residual(activation: str | None) -> None:
    layer = BatchNormalization(momentum=0.0, activation=activation)
    dense = BatchNormalization(momentum=0.0, activation=activation)
    for training in (True, False):
        for residual in (False, True):
            given = {"residual": split(RAGGED)} if residual else {}
            expected = {"residual": keras.ops.convert_to_tensor(FLAT)} if residual else {}
            y = layer(split(RAGGED), training=training, **given)
            np.testing.assert_allclose(
                joined(y), values(dense(FLAT, training=training, **expected)).reshape(-1, 2), rtol=1e-5, atol=1e-6
            )


@needs_split
def test_a_ragged_mask_leaves_values_out() -> None:
    layer, dense = BatchNormalization(momentum=0.0), BatchNormalization(momentum=0.0)
    if BACKEND == "tensorflow":
        mask = sys.modules["tensorflow"].ragged.constant([[True], [True, False]])
    else:
        torch: Any = sys.modules["torch"]
        mask = torch.nested.nested_tensor([torch.tensor([True]), torch.tensor([True, False])], layout=torch.jagged)
    y = layer(split(RAGGED), training=True, mask=mask)
    expected = dense(FLAT, training=True, mask=np.array([True, True, False]))
    np.testing.assert_allclose(joined(y), values(expected), rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_mean), [2, 3], rtol=1e-6)


@needs_split
def test_virtual_batches_are_of_samples() -> None:
    lists = [[[1.0], [3.0]], [[5.0]], [[10.0], [20.0]], [[30.0], [40.0], [50.0]]]
    y = joined(GhostBatchNormalization(num_splits=2, epsilon=0.0)(split(lists), training=True))
    first, second = np.array([1.0, 3, 5]), np.array([10.0, 20, 30, 40, 50])
    expected = np.concatenate([(x - x.mean()) / x.std() for x in (first, second)])
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-4)


@needs_split
@pytest.mark.parametrize("name", ["mask", "residual"])
def test_what_stands_beside_must_be_split_alike(name: str) -> None:
    shape = (2, 2) if name == "mask" else (2, 2, 2)
    dense = keras.ops.ones(shape, "bool" if name == "mask" else "float32")
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        BatchNormalization()(split(RAGGED), training=True, **{name: dense})
    assert (
        f"{name} must be ragged as the inputs are, received a dense one of shape {shape}: split it into the same "
        "samples."
    ) in str(caught.value)


@needs_split
def test_other_lengths_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        BatchNormalization()(split(RAGGED), training=True, residual=split(RAGGED[::-1]))
    assert (
        "residual must be split into the same samples as the inputs, received other lengths of samples: build both "
        "from the same row splits."
    ) in str(caught.value)


@tensorflow
def test_channels_along_a_ragged_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"[Rr]eceived") as caught:
        BatchNormalization(axis=1)(split(RAGGED), training=True)
    assert (
        "the number of channels must be known, received axis=1 for inputs of rank 3, of shape (2, None, 2): give that "
        "axis a length in keras.Input, or make it uniform in a ragged tensor."
    ) in str(caught.value)


@torch_only
def test_a_nested_tensor_passes_gradients() -> None:
    torch: Any = sys.modules["torch"]
    leaf = torch.tensor(FLAT, requires_grad=True)
    nested = torch.nested.nested_tensor_from_jagged(leaf, torch.tensor([0, 1, 3]))
    y = BatchNormalization()(nested, training=True)
    weights = torch.tensor([[1.0, 0], [0, 2], [3, 0]])
    (found,) = torch.autograd.grad((y.values() * weights).sum(), leaf)
    (expected,) = torch.autograd.grad((BatchNormalization()(leaf, training=True) * weights).sum(), leaf)
    torch.testing.assert_close(found, expected)


def sparse(x: Any) -> Any:
    if BACKEND == "torch":
        return sys.modules["torch"].tensor(x).to_sparse()
    if BACKEND == "tensorflow":
        return sys.modules["tensorflow"].sparse.from_dense(x)
    from jax.experimental.sparse import BCOO

    return BCOO.fromdense(x)


@pytest.mark.parametrize("training", [True, False])
def test_sparse_inputs_and_arrays_are_as_dense_ones(training: bool) -> None:
    x = np.array([[0, 2], [0, 0], [7, 0], [1, 1]], "float32")
    expected = values(BatchNormalization()(keras.ops.convert_to_tensor(x), training=training))
    np.testing.assert_allclose(values(BatchNormalization()(sparse(x), training=training)), expected, rtol=1e-6)
    np.testing.assert_allclose(values(BatchNormalization()(x, training=training)), expected, rtol=1e-6)
    np.testing.assert_allclose(values(BatchNormalization()(x.astype("int32"), training=training)), expected, rtol=1e-6)


def test_complex_numbers_are_refused() -> None:
    x = keras.ops.convert_to_tensor(np.ones((4, 2), "complex64"))
    with pytest.raises(TypeError) as caught:
        BatchNormalization(dtype="float32", autocast=False)(x, training=True)
    assert (
        "the inputs must be real numbers, received complex64: convert them first, complex numbers for example into two "
        "channels."
    ) in str(caught.value)
