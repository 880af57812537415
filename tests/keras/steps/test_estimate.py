"""The estimates that enter moving statistics: by every estimator, of tiny batches, of masks, over replicas."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from normwise.estimators import RunningStatistics, estimator_class, names
from normwise.estimators.window import Window
from normwise.keras import BatchNormalization
from normwise.kernels import reference, reference_renorm
from tests.keras.calls import values

ESTIMATORS: dict[str, Any] = {**{name: name for name in names() if name != "window"}, "window": Window(1, 3)}


def batches() -> list[Any]:
    """Batches of different sizes, the third of them with a NaN in one channel."""
    rng = np.random.default_rng(0)
    found = [rng.normal(5, 2, (size, 3)).astype("float32") for size in (8, 3, 6, 12)]
    found[2][0, 1] = np.nan
    return found


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_gives_what_it_gives_in_numpy(name: str) -> None:
    layer = BatchNormalization(momentum=0.9, estimator=ESTIMATORS[name])
    estimator, right = layer.estimator, RunningStatistics.start(3)
    assert type(estimator) is estimator_class(name)
    healthy = [0, 2]
    for x in batches():
        layer(x, training=True)
        right = estimator.update(right, reference.moments(x))
    np.testing.assert_allclose(values(layer.moving_mean)[healthy], right.mean[healthy], rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance)[healthy], right.var[healthy], rtol=1e-4)
    assert np.isfinite(values(layer.moving_mean)).all()
    again = BatchNormalization.from_config(layer.get_config())
    assert again.estimator == estimator


def test_an_estimator_follows_masks() -> None:
    x = np.random.default_rng(0).normal(5, 2, (4, 6, 3)).astype("float32")
    mask = np.arange(6) < np.array([[6], [2], [1], [4]])
    layer = BatchNormalization(estimator="pooled")
    for part in (slice(0, 2), slice(2, 4)):
        layer(x[part], mask=mask[part], training=True)
    np.testing.assert_allclose(values(layer.moving_mean), x[mask].mean(0), rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance), x[mask].var(0, ddof=1), rtol=1e-5)


def test_one_value_is_normalized_by_the_moving_statistics() -> None:
    layer = BatchNormalization(on_tiny_batch="running", moving_variance_initializer=keras.initializers.Constant(4.0))
    y = layer(np.array([[6.0, 2.0]], "float32"), training=True)
    np.testing.assert_allclose(values(y), [[3, 1]], rtol=1e-3)
    np.testing.assert_array_equal(values(layer.moving_variance), 4)


def test_one_value_that_a_mask_leaves_is_too() -> None:
    x = np.array([[[6.0]], [[8.0]]], "float32")
    layer = BatchNormalization(moving_variance_initializer=keras.initializers.Constant(4.0))
    y = layer(x, training=True, mask=np.array([[True], [False]]))
    np.testing.assert_allclose(values(y).ravel(), [3, 4], rtol=1e-3)
    np.testing.assert_array_equal(values(layer.moving_mean), 0)


@pytest.mark.parametrize("samples", [1, 31, 32])
def test_few_values_are_renormalized(samples: int) -> None:
    x = np.random.default_rng(0).normal(1, 1, (samples, 3)).astype("float32")
    layer = BatchNormalization(on_tiny_batch="renorm")
    y = values(layer(x, training=True))
    running = reference_renorm.Statistics(np.zeros(3), np.sqrt(np.ones(3) + layer.epsilon))
    right = reference_renorm.forward(x, np.ones(3), np.zeros(3), running, 3.0, 5.0, layer.epsilon).y
    if samples >= 32:
        right = reference.forward_batch(x, None, None, layer.epsilon)[0]
    np.testing.assert_allclose(y, right, rtol=1e-4, atol=1e-5)


def test_training_on_a_batch_of_one_says_which_layer_and_what_to_do() -> None:
    layer = BatchNormalization(name="bn")
    with pytest.raises(ValueError, match=r"got input shape \(1, 3\) in layer 'bn': leave such a batch out, or choose"):
        layer(np.ones((1, 3), "float32"), training=True)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"on_tiny_batch": "ignore"},
        ValueError,
        "unknown on_tiny_batch 'ignore'; known: error, renorm, running.",
    ),
    (
        {"estimator": 3},
        TypeError,
        "estimator must be a name or a normwise.estimators.Estimator, received int: pass for example 'pooled'.",
    ),
    (
        {"estimator": "pooled", "renorm": True},
        ValueError,
        "renorm=True moves its statistics by itself, received estimator='pooled' too: leave one of them out.",
    ),
]


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED)
def test_what_is_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        BatchNormalization(**settings)
    assert str(raised.value) == message


def test_a_residual_of_another_shape_is_refused() -> None:
    x = np.ones((4, 3), "float32")
    message = r"residual must have the shape of the inputs, \(4, 3\), received \(4, 1\): expand it or project it first."
    with pytest.raises(ValueError, match=message):
        BatchNormalization()(x, residual=x[:, :1])
