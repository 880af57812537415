"""The layer against the formulas, output and every gradient, on this process's backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from normwise.keras import BatchNormalization
from normwise.keras.steps.activate import IN_KERNELS
from normwise.kernels import reference
from tests.keras.calls import Array, Result, call, double_precision, values


class Case(NamedTuple):
    """A layout, and why it is here."""

    shape: tuple[int, ...]
    axis: int


CASES = {
    "rows": Case((7, 5), -1),
    "columns": Case((5, 7), 0),
    "one channel": Case((9, 1), -1),
    "a sequence": Case((3, 5, 4), -1),
    "images": Case((2, 5, 3, 4), -1),
    "volumes": Case((2, 3, 2, 2, 4), -1),
    "channels first": Case((2, 4, 5, 3), 1),
    "channels first, a sequence": Case((3, 4, 6), 1),
    "an axis in the middle": Case((2, 3, 4, 5), 2),
    "the first axis": Case((4, 3, 2, 5), 0),
    "many, for the compiled kernels": Case((8, 9, 8, 64), -1),
    "many, channels first": Case((8, 64, 9, 8), 1),
}


def problem(shape: tuple[int, ...], dtype: str, mean: float = 3.0, seed: int = 0) -> tuple[Array, Array, Array]:
    """An input, a residual and the gradient for the output."""
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, 2.0, shape)
    return x.astype(dtype), rng.normal(0, 1, shape).astype(dtype), rng.normal(0, 1, shape).astype(dtype)


def layer_for(shape: tuple[int, ...], dtype: str, **settings: Any) -> Any:
    """A built layer with parameters that are not the initial ones."""
    layer = BatchNormalization(dtype=dtype, momentum=0.9, **settings)
    layer.build(shape)
    rng = np.random.default_rng(1)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(1, 0.5, variable.shape))
    layer.moving_mean.assign(rng.normal(0, 1, layer.moving_mean.shape))
    layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_mean.shape))
    return layer


def by_reference(layer: Any, x: Array, dy: Array, **options: Any) -> tuple[Result, Any]:
    """The results of the formulas, and the batch's moments."""
    gamma = values(layer.gamma) if layer.scale else None
    beta = values(layer.beta) if layer.center else None
    options = {"axis": layer.axis, **options}
    y, moments = reference.forward_batch(x, gamma, beta, layer.epsilon, **options)
    found = reference.backward_batch(dy, x, gamma, beta, layer.epsilon, **options)
    learned = found.scale if layer.scale else None, found.shift if layer.center else None
    return Result(y, found.x, found.residual, *learned), moments


def assert_close(found: Result, right: Result, tolerance: float) -> None:
    """Each within the tolerance, in units of the largest of its values or 1."""
    for name, mine, theirs in zip(Result._fields, found, right, strict=True):
        assert (mine is None) == (theirs is None), name
        if mine is not None and theirs is not None:
            size = max(1.0, float(np.abs(theirs).max(initial=0.0)))
            assert np.abs(mine.astype(np.float64) - theirs).max(initial=0.0) <= tolerance * size, name


@pytest.mark.parametrize("name", CASES)
def test_training_in_double_precision_is_the_reference(name: str) -> None:
    shape, axis = CASES[name]
    x, residual, dy = problem(shape, "float64")
    with double_precision():
        layer = layer_for(shape, "float64", axis=axis, activation="relu")
        before = values(layer.moving_mean), values(layer.moving_variance)
        found = call(layer, x, dy, residual, training=True)
        right, moments = by_reference(layer, x, dy, residual=residual, activation="relu")
        assert_close(found, right, 1e-10)
        np.testing.assert_allclose(values(layer.moving_mean), 0.9 * before[0] + 0.1 * moments.mean, rtol=1e-10)
        np.testing.assert_allclose(values(layer.moving_variance), 0.9 * before[1] + 0.1 * moments.var, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_inference_in_double_precision_is_the_reference(name: str) -> None:
    shape, axis = CASES[name]
    x, residual, dy = problem(shape, "float64")
    with double_precision():
        layer = layer_for(shape, "float64", axis=axis, activation="silu")
        mean, var, gamma, beta = (
            values(v) for v in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
        )
        found = call(layer, x, dy, residual)
        options: dict[str, Any] = {"axis": axis, "residual": residual, "activation": "silu"}
        y = reference.forward_fixed(x, mean, var, gamma, beta, layer.epsilon, **options)
        right = reference.backward_fixed(dy, x, mean, var, gamma, beta, layer.epsilon, **options)
        assert_close(found, Result(y, right.x, right.residual, right.scale, right.shift), 1e-10)
        np.testing.assert_array_equal(values(layer.moving_mean), mean)


@pytest.mark.parametrize("activation", sorted(IN_KERNELS.values()))
def test_every_activation_that_the_reference_knows(activation: str) -> None:
    x, _, dy = problem((6, 5, 4), "float32")
    keras_name = "hard_swish" if activation == "hardswish" else activation
    layer = layer_for(x.shape, "float32", activation=keras_name)
    found = call(layer, x, dy, training=True)
    assert_close(found, by_reference(layer, x, dy, activation=activation)[0], 2e-5)


def test_any_other_activation_of_keras_follows_the_layer() -> None:
    x, residual, _ = problem((6, 5), "float32")
    plain, fused = layer_for(x.shape, "float32"), layer_for(x.shape, "float32", activation="leaky_relu")
    y = values(plain(x, training=True)) + residual
    np.testing.assert_allclose(
        values(fused(x, residual=residual, training=True)), np.where(y > 0, y, 0.2 * y), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("settings", [{"scale": False}, {"center": False}, {"scale": False, "center": False}])
@pytest.mark.parametrize("shape", [(6, 5), (8, 9, 8, 64)])
def test_without_parameters(settings: dict[str, bool], shape: tuple[int, ...]) -> None:
    x, _, dy = problem(shape, "float32")
    layer = layer_for(shape, "float32", **settings)
    found = call(layer, x, dy, training=True)
    assert_close(found, by_reference(layer, x, dy)[0], 3e-5)


@pytest.mark.parametrize("shape", [(4096, 16), (4, 1024, 16)])
def test_far_from_zero_no_digits_are_lost(shape: tuple[int, ...]) -> None:
    x, _, dy = problem(shape, "float32", mean=2e4)  # 10 000 standard deviations
    layer = layer_for(shape, "float32")
    found = call(layer, x, dy, training=True)
    assert_close(found, by_reference(layer, x, dy)[0], 1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(6, 5), (8, 9, 8, 64)])
def test_half_precision_is_computed_in_single(policy: str, shape: tuple[int, ...]) -> None:
    half = policy.removeprefix("mixed_")
    x, residual, _ = problem(shape, "float32")
    layer = layer_for(shape, policy, activation="relu")
    y = layer(x, residual=residual, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == half
    rounded = [values(keras.ops.cast(keras.ops.cast(part, half), "float32")) for part in (x, residual)]
    gamma, beta = (values(keras.ops.cast(part, "float32")) for part in (layer.gamma, layer.beta))
    right, _ = reference.forward_batch(
        rounded[0], gamma, beta, layer.epsilon, axis=-1, activation="relu", residual=rounded[1]
    )
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[half]
    np.testing.assert_allclose(values(keras.ops.cast(y, "float32")), right, rtol=2 * unit, atol=2 * unit)
