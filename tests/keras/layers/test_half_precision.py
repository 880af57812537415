"""Layers in half precision: their moving statistics are in float32, and files go both ways as before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.keras import (
    BatchNormalization,
    GhostBatchNormalization,
    PerDomainBatchNormalization,
    convert,
    domain,
    to_keras,
)
from tests.keras.calls import double_precision, values

Theirs = keras.layers.BatchNormalization
LAYERS: dict[str, Callable[..., Any]] = {
    "plain": BatchNormalization,
    "renorm": lambda **settings: BatchNormalization(
        renorm=True, renorm_momentum=settings.get("momentum", 0.99), **settings
    ),
    "ghost": lambda **settings: GhostBatchNormalization(num_splits=2, **settings),
    "estimator": lambda **settings: BatchNormalization(estimator="debiased_ema", **settings),
    "domains": lambda **settings: PerDomainBatchNormalization(domains=["day"], **settings),
}


@pytest.fixture(params=sorted(LAYERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def train(layer: Any, x: Any, times: int = 1) -> None:
    for _ in range(times):
        if isinstance(layer, PerDomainBatchNormalization):
            with domain(layer, "day"):
                layer(x, training=True)
        else:
            layer(x, training=True)


def infer(layer: Any, x: Any) -> Any:
    if isinstance(layer, PerDomainBatchNormalization):
        with domain(layer, "day"):
            return values(keras.ops.cast(layer(x, training=False), "float32"))
    return values(keras.ops.cast(layer(x, training=False), "float32"))


def held(layer: Any) -> dict[str, Any]:
    """The statistics; of domains those of the one that trained."""
    found = {}
    for variable in layer.non_trainable_variables:
        if variable.dtype != "int32":
            found[variable.name] = variable
    return found


def batch(mean: float, deviation: float, rows: int = 64) -> Any:
    """Rows whose mean and deviation are exact: half of them above, half below."""
    signs = np.tile([1.0, -1.0], rows // 2)[:, None] * np.ones((1, 2))
    return (mean + deviation * signs).astype("float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16", "mixed_float16", "float32"])
def test_statistics_are_in_float32_and_weights_in_the_dtype_of_the_layer(kind: str, dtype: str) -> None:
    layer = LAYERS[kind](dtype=dtype)
    layer.build((None, 2))
    assert {variable.dtype for variable in held(layer).values()} == {"float32"}
    assert {variable.dtype for variable in layer.trainable_variables} == {layer.variable_dtype}
    y = layer(batch(0, 1)) if kind != "domains" else None
    assert y is None or keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype


def test_float64_stays(kind: str) -> None:
    with double_precision():
        layer = LAYERS[kind](dtype="float64")
        layer.build((None, 2))
        assert {variable.dtype for variable in layer.variables if variable.dtype != "int32"} == {"float64"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_steps_add_up(kind: str, dtype: str) -> None:
    """In bfloat16 0.01 (3 - 2.3) is less than half of what 2.3 can change by."""
    layer = LAYERS[kind](dtype=dtype, momentum=0.99)
    layer.build((None, 2))
    train(layer, batch(3, 2), 1000)
    means = [values(v) for name, v in held(layer).items() if name.endswith("moving_mean")]
    assert any(np.allclose(mean, 3, rtol=1e-4) for mean in means)


@pytest.mark.parametrize("deviation", [300, 1000])
def test_a_variance_beyond_float16_is_kept(kind: str, deviation: int) -> None:
    layer = LAYERS[kind](dtype="float16", momentum=0.5, epsilon=1e-3)
    layer.build((None, 2))
    x = batch(0, deviation)
    train(layer, x, 40)
    expected = deviation**2 * (64 / 63 if kind == "estimator" else 1)
    variances = [values(v) for name, v in held(layer).items() if name.endswith("moving_variance")]
    assert any(np.allclose(var, expected, rtol=1e-4) for var in variances)
    assert infer(layer, x).std() == pytest.approx(1, abs=0.01)


def model_of(layer: Any) -> Any:
    return keras.Sequential([keras.Input((2,), dtype="float32"), layer])


def trained(cls: Any, dtype: str, **settings: Any) -> Any:
    model = model_of(cls(dtype=dtype, momentum=0.5, name="bn", **settings))
    for _ in range(5):
        model(batch(3, 2), training=True)
    return model


@pytest.mark.parametrize("renorm", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_weights_files_go_both_ways(tmp_path: Path, dtype: str, renorm: bool) -> None:
    path = tmp_path / "model.weights.h5"
    for source, target in ((BatchNormalization, Theirs), (Theirs, BatchNormalization)):
        written = trained(source, dtype, renorm=renorm)
        written.save_weights(path)
        read = model_of(target(dtype=dtype, name="bn", renorm=renorm))
        read.load_weights(path)
        for mine, other in zip(written.weights, read.weights, strict=True):
            assert mine.name == other.name
            np.testing.assert_allclose(
                values(keras.ops.cast(values(other), "float32")),
                values(keras.ops.cast(values(mine), "float32")),
                rtol=0.01,
            )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_keras_files_go_both_ways(tmp_path: Path, dtype: str) -> None:
    """Those that the code before wrote had the statistics of Keras's layer, in half precision."""
    path, x = tmp_path / "model.keras", batch(3, 2)
    theirs = trained(Theirs, dtype)
    theirs.save(path)
    loaded = keras.models.load_model(path)
    convert(loaded)
    np.testing.assert_allclose(infer(loaded, x), infer(theirs, x), rtol=0.02, atol=0.02)
    assert {variable.dtype for variable in loaded.non_trainable_variables} == {"float32"}
    loaded.save(path)
    again = keras.models.load_model(path)
    assert type(again.layers[0]) is BatchNormalization
    np.testing.assert_array_equal(values(again.layers[0].moving_mean), values(loaded.layers[0].moving_mean))
    to_keras(again)
    again.save(path)
    np.testing.assert_allclose(infer(keras.models.load_model(path), x), infer(theirs, x), rtol=0.02, atol=0.02)


def test_a_variance_that_keras_cannot_hold_is_refused_on_the_way_back() -> None:
    model = model_of(BatchNormalization(dtype="float16", momentum=0.0, name="bn"))
    model(batch(0, 300), training=True)
    path = model.layers[0].path
    with pytest.raises(NormwiseError) as caught:
        to_keras(model)
    assert str(caught.value) == (
        f"Keras's layer keeps its moving_variance in float16, which cannot hold the 9e+04 of layer {path!r}: build the "
        "model with dtype='mixed_float16', or keep normwise's layer."
    )
    assert type(model.layers[0]) is BatchNormalization


def test_a_copy_has_the_same_dtypes(kind: str) -> None:
    layer = LAYERS[kind](dtype="float16")
    layer.build((None, 2))
    copy = type(layer).from_config(layer.get_config())
    copy.build((None, 2))
    assert [v.dtype for v in copy.weights] == [v.dtype for v in layer.weights]
    assert copy.get_config() == layer.get_config()


def test_a_clone_of_a_model_has_the_same_dtypes() -> None:
    model = trained(BatchNormalization, "bfloat16")
    clone = keras.models.clone_model(model)
    assert [v.dtype for v in clone.weights] == ["bfloat16", "bfloat16", "float32", "float32"]
