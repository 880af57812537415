"""The three ways of the layer on TensorFlow's CPU against the formulas, with derivatives, however it is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

from normwise.kernels import reference
from tests.keras.calls import BACKEND, Array, Result, values
from tests.keras.layers.test_agreement import assert_close, by_reference, layer_for

if BACKEND != "tensorflow":
    pytest.skip("these are for TensorFlow", allow_module_level=True)
import tensorflow as tf

from normwise.keras.steps import tensorflow_kernels, tensorflow_sums
from normwise.keras.steps.normalize import Normalized

Compiler = Callable[..., Any]
WAYS = {"by one kernel": 0, "by operations": 10**12, "for XLA": None}


@pytest.fixture(params=WAYS)
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """A compiler of functions that makes the layer take the way of the parameter."""
    start = WAYS[request.param]
    if start is None:
        return partial(tf.function, jit_compile=True)
    monkeypatch.setattr(tensorflow_kernels, "FUSED_FROM", start)
    return partial(tf.function)


def gradients_of(layer: Any, x: Any, residual: Any, dy: Any) -> tuple[Any, ...]:
    with tf.GradientTape() as tape:
        tape.watch([x, residual])
        y = layer(x, residual=residual, training=True)
    return y, *tape.gradient(y, [x, residual, *(v.value for v in layer.trainable_variables)], dy)


def data(shape: tuple[int, ...], kind: str) -> Array:
    """An input: near zero; far from it; or far but for the value that comes first, as in padding."""
    x = np.random.default_rng(0).normal(0.5 if kind == "near" else 2e4, 2.0, shape)
    if kind == "but the first":
        x.reshape(-1, shape[-1])[0] = 0
    return x.astype("float32")


@pytest.mark.parametrize("kind", ["near", "far", "but the first"])
@pytest.mark.parametrize("shape", [(64, 5), (4, 3, 4, 5), (2, 5, 6, 4, 3), (8, 24, 24, 32)])
def test_output_gradients_and_statistics(compiled: Compiler, shape: tuple[int, ...], kind: str) -> None:
    x, (residual, dy) = data(shape, kind), np.random.default_rng(1).normal(0, 1, (2, *shape)).astype("float32")
    layer = layer_for(shape, "float32", activation="tanh")
    before = values(layer.moving_mean), values(layer.moving_variance)
    found = compiled(lambda *given: gradients_of(layer, *given))(x, residual, dy)
    right, moments = by_reference(layer, x, dy, residual=residual, activation="tanh")
    assert_close(Result(*map(values, found)), right, 2e-5 if kind == "near" else 2e-4)
    np.testing.assert_allclose(values(layer.moving_mean), 0.9 * before[0] + 0.1 * moments.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance), 0.9 * before[1] + 0.1 * moments.var, rtol=1e-4)


def plain(x: Any, scale: Any, shift: Any) -> Any:
    """The formulas in operations whose derivatives TensorFlow has of any order."""
    over = tuple(range(len(x.shape) - 1))
    mean = tf.reduce_mean(x, over)
    return (x - mean) / tf.sqrt(tf.reduce_mean((x - mean) ** 2, over) + 1e-3) * scale + shift


def by_layer(x: Any, scale: Any, shift: Any) -> Any:
    sums = tensorflow_kernels.compiled_by_xla()
    if not sums:
        return tensorflow_kernels.by_batch(x, scale, shift, 1e-3, -1, None, None).y
    over = tuple(range(len(x.shape) - 1))
    centred, _, rest, var = tensorflow_sums.about_the_mean(x, over, tf.cast(tf.size(x) / x.shape[-1], x.dtype))
    factor = tf.math.rsqrt(var + 1e-3) * scale
    return tensorflow_sums.scaled(centred, factor, shift - rest * factor)


@pytest.mark.parametrize("shape", [(12, 3), (2, 3, 2, 3)])
def test_second_derivatives(compiled: Compiler, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    given = [rng.normal(1, 1, shape), rng.normal(1, 0.2, 3), rng.normal(0, 1, 3)]
    weights, directions = rng.normal(0, 1, shape), [rng.normal(0, 1, each.shape) for each in given]

    def second(function: Callable[..., Any], dtype: Any) -> Any:
        held, along = ([tf.cast(each, dtype) for each in many] for many in (given, directions))
        with tf.GradientTape() as outer:
            outer.watch(held)
            with tf.GradientTape() as inner:
                inner.watch(held)
                y = tf.reduce_sum(function(*held) ** 3 * tf.cast(weights, dtype))
            first = inner.gradient(y, held)
            product = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(first, along, strict=True)])
        return [*first, *outer.gradient(product, held, unconnected_gradients="zero")]

    found = compiled(lambda: second(by_layer, tf.float32))()
    for mine, right in zip(found, second(plain, tf.float64), strict=True):
        np.testing.assert_allclose(mine, right, rtol=2e-3, atol=2e-3 * np.abs(right).max())


def test_forward_mode(compiled: Compiler) -> None:
    rng = np.random.default_rng(0)
    x, direction, scale = (rng.normal(1, 1, size) for size in ((12, 3), (12, 3), 3))

    def tangent(function: Callable[..., Any], dtype: Any) -> Any:
        held, along = tf.cast(x, dtype), tf.cast(direction, dtype)
        with tf.autodiff.ForwardAccumulator(held, along) as accumulator:
            y = function(held, tf.cast(scale, dtype), tf.zeros(3, dtype))
        return accumulator.jvp(y)

    found = compiled(lambda: tangent(by_layer, tf.float32))()
    np.testing.assert_allclose(found, tangent(plain, tf.float64), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [0, 1, 5])
def test_batches_of_a_size_that_the_graph_does_not_know(compiled: Compiler, size: int) -> None:
    layer = layer_for((2, 3, 4, 2), "float32")
    before = values(layer.moving_mean), values(layer.moving_variance)
    x = np.random.default_rng(0).normal(7, 2, (size, 3, 4, 2)).astype("float32")
    signature = tf.TensorSpec((None, 3, 4, 2))

    def train(x: Any) -> Any:
        return layer(x, training=True)

    y = compiled(train, input_signature=[signature])(x)
    assert y.shape == x.shape
    if size == 0:
        np.testing.assert_array_equal(values(layer.moving_mean), before[0])
        np.testing.assert_array_equal(values(layer.moving_variance), before[1])
        return
    right, moments = reference.forward_batch(x, values(layer.gamma), values(layer.beta), layer.epsilon, axis=-1)
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values(layer.moving_mean), 0.9 * before[0] + 0.1 * moments.mean, rtol=1e-5)


def test_a_value_that_is_not_finite_stays_out(compiled: Compiler) -> None:
    layer = layer_for((6, 3), "float32")
    before = values(layer.moving_mean)
    x = np.random.default_rng(0).normal(7, 2, (6, 3)).astype("float32")
    x[0, 0], x[3, 1] = np.nan, np.inf
    compiled(lambda x: layer(x, training=True))(x)
    after = values(layer.moving_mean)
    np.testing.assert_array_equal(after[:2], before[:2])
    assert after[2] != before[2]
    assert np.isfinite(values(layer.moving_variance)).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_what_fit_compiles_is_noticed(jit_compile: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for module, name in ((tensorflow_kernels, "by_batch"), (tensorflow_sums, "about_the_mean")):
        original = getattr(module, name)

        def noting(*given: Any, original: Any = original, name: str = name) -> Normalized:
            asked.append(name)
            found: Normalized = original(*given)
            return found

        monkeypatch.setattr(module, name, noting)
    model = keras.Sequential([keras.Input((4,)), layer_for((2, 4), "float32")])
    model.compile("sgd", "mse", jit_compile=jit_compile)
    asked.clear()  # the model was built by a call of its own
    x = np.random.default_rng(0).normal(0, 1, (8, 4)).astype("float32")
    model.fit(x, x, batch_size=4, verbose=0)
    assert set(asked) == ({"about_the_mean"} if jit_compile else {"by_batch"})


def sums_of_products(layer: Any, x: Any) -> int:
    """The number of fusions of XLA's code that sum what they multiply, which its fast kernel does not do."""

    @tf.function(jit_compile=True)
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, layer.gamma.value], x)

    code = step.experimental_get_compiler_ir(x)(stage="optimized_hlo")
    return len(re.findall(r"^ *(?:ROOT )?%\w*multiply_reduce_fusion[.\w]* = ", code, re.MULTILINE))


def test_xla_gets_no_sum_of_products() -> None:
    """It gets two from Keras's layer; where that changes, so may ``tensorflow_sums``."""
    x = tf.ones((8, 28, 28, 128))
    keras_layer = keras.layers.BatchNormalization()
    keras_layer.build(x.shape)
    assert sums_of_products(keras_layer, x) == 2
    assert sums_of_products(layer_for((8, 28, 28, 128), "float32"), x) == 0


def test_without_the_way_to_ask_for_xla_the_numbers_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_kernels, "GraphOrParentsInXlaContext", None)
    monkeypatch.setattr(tensorflow_kernels, "FUSED_FROM", 0)
    layer, x = layer_for((64, 5), "float32"), data((64, 5), "far")
    y = tf.function(lambda x: layer(x, training=True), jit_compile=True)(x)
    right, _ = reference.forward_batch(x, values(layer.gamma), values(layer.beta), layer.epsilon, axis=-1)
    np.testing.assert_allclose(y, right, atol=2e-4)
