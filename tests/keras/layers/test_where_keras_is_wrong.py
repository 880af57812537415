"""The errors of Keras's layer, each shown with it first, so that a repair there is noticed; then ours."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from normwise.keras import BatchNormalization
from tests.keras.calls import BACKEND, values

Theirs = keras.layers.BatchNormalization


def far_from_zero() -> Any:
    return np.random.default_rng(0).normal(1e4, 1, (4096, 128)).astype("float32")


@pytest.mark.skipif(BACKEND != "torch", reason="Keras takes E[x^2] - E[x]^2 on the torch backend only")
def test_keras_variance_is_lost_far_from_zero() -> None:
    y = values(Theirs()(far_from_zero(), training=True))
    assert np.isnan(y).any()
    assert np.nanmax(y.std(0)) > 2


def test_ours_is_not() -> None:
    y = values(BatchNormalization()(far_from_zero(), training=True))
    np.testing.assert_allclose(y.std(0), 1, atol=2e-3)


def moving_after(layer: Any, *batches: Any, **arguments: Any) -> tuple[Any, Any]:
    for batch in batches:
        layer(batch, training=True, **arguments)
    return values(layer.moving_mean), values(layer.moving_variance)


def test_an_all_masked_batch_moves_keras_statistics() -> None:
    start = {"moving_mean_initializer": keras.initializers.Constant(5.0)}
    nothing = np.zeros(4, bool)
    mean, var = moving_after(Theirs(**start), np.ones((4, 3), "float32"), mask=nothing)
    assert (mean < 5).all()
    assert (var < 1).all()
    mean, var = moving_after(BatchNormalization(**start), np.ones((4, 3), "float32"), mask=nothing)
    assert (mean == 5).all()
    assert (var == 1).all()


def test_a_batch_of_one_trains_to_zeros_in_keras() -> None:
    one = np.array([[5.0, 7.0]], "float32")
    layer = Theirs()
    np.testing.assert_array_equal(values(layer(one, training=True)), [[0, 0]])
    assert (values(layer.moving_variance) < 1).all()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        BatchNormalization()(one, training=True)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="there Keras forgives a shape () for (1,)")
def test_a_mask_with_one_channel_fails_in_keras() -> None:
    x, mask = np.ones((4, 3, 1), "float32"), np.ones((4, 3), bool)
    with pytest.raises(IndexError):
        Theirs()(x, training=True, mask=mask)


def test_a_mask_with_one_channel_is_right_in_ours() -> None:
    x, mask = np.array([[[1.0], [3.0], [50.0]]], "float32"), np.array([[True, True, False]])
    mean, var = moving_after(BatchNormalization(momentum=0.0), x, mask=mask)
    np.testing.assert_allclose([*mean, *var], [2, 1])


def sequences(channels: int) -> tuple[Any, Any]:
    """Channels first, with padding of 9 at the end."""
    x = np.random.default_rng(0).normal(0, 1, (4, channels, 5)).astype("float32")
    x[:, :, 3:] = 9
    return x, np.arange(5) < np.full((4, 1), 3)


def test_a_mask_of_positions_with_axis_1_fails_in_keras() -> None:
    x, mask = sequences(3)
    with pytest.raises(Exception, match=r"(?i)shape|size|broadcast"):
        Theirs(axis=1)(x, training=True, mask=mask)


def test_or_masks_the_wrong_axis_where_the_sizes_agree() -> None:
    x, mask = sequences(5)
    mean, _ = moving_after(Theirs(axis=1, momentum=0.0), x, mask=mask)
    assert np.abs(mean - x[:, :, :3].mean((0, 2))).max() > 1


@pytest.mark.parametrize("channels", [3, 5])
def test_a_mask_of_positions_with_axis_1_is_right_in_ours(channels: int) -> None:
    x, mask = sequences(channels)
    mean, var = moving_after(BatchNormalization(axis=1, momentum=0.0), x, mask=mask)
    np.testing.assert_allclose(mean, x[:, :, :3].mean((0, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, x[:, :, :3].var((0, 2)), rtol=1e-5)


def test_one_nan_poisons_keras_statistics_for_good() -> None:
    sick = np.ones((4, 3), "float32")
    sick[0, 1] = np.nan
    clean = [np.random.default_rng(seed).normal(0, 1, (4, 3)).astype("float32") for seed in range(5)]
    mean, var = moving_after(Theirs(), sick, *clean)
    assert np.isnan(mean[1])
    assert np.isnan(var[1])
    mean, var = moving_after(BatchNormalization(), sick, *clean)
    healthy = moving_after(BatchNormalization(), *clean)
    np.testing.assert_allclose([mean[1], var[1]], [healthy[0][1], healthy[1][1]])  # as if it had not been
    right = moving_after(Theirs(), np.ones((4, 3), "float32"), *clean)  # the other channels took it
    np.testing.assert_allclose([mean[[0, 2]], var[[0, 2]]], [right[0][[0, 2]], right[1][[0, 2]]], rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="there it is accepted")
def test_synchronized_is_refused_by_keras() -> None:
    message = "Argument synchronized=True is only supported with the TensorFlow backend."
    with pytest.raises(ValueError, match=message):
        Theirs(synchronized=True)
    assert BatchNormalization(synchronized=True).get_config()["synchronized"] is True
