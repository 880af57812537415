"""Virtual batches: against the formulas, in every order, for any number of samples."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from normwise.keras import BatchNormalization, GhostBatchNormalization
from normwise.keras.steps.gather_virtual import Sizes
from normwise.kernels import reference_ghost
from tests.keras.calls import call, double_precision, values

# How many samples, the settings, and the virtual batches that they come to.
DIVISIONS: list[tuple[int, dict[str, Any], list[list[int]]]] = [
    (6, {"virtual_batch_size": 3}, [[0, 1, 2], [3, 4, 5]]),
    (5, {"virtual_batch_size": 3}, [[0, 1, 2], [3, 4]]),
    (7, {"virtual_batch_size": 3}, [[0, 1, 2], [3, 4, 5, 6]]),
    (7, {"virtual_batch_size": 3, "smallest": 1}, [[0, 1, 2], [3, 4, 5], [6]]),
    (3, {"virtual_batch_size": 8}, [[0, 1, 2]]),
    (4, {"virtual_batch_size": 3}, [[0, 1, 2, 3]]),
    (7, {"num_splits": 3}, [[0, 1, 2], [3, 4, 5, 6]]),
    (6, {"virtual_batch_size": 3, "order": "interleaved"}, [[0, 2, 4], [1, 3, 5]]),
    (8, {"virtual_batch_size": 3, "order": "interleaved"}, [[0, 2, 4], [1, 3, 5], [6, 7]]),
]


@pytest.mark.parametrize(("samples", "settings", "groups"), DIVISIONS)
def test_values_and_gradients_are_the_references(samples: int, settings: dict[str, Any], groups: Any) -> None:
    rng = np.random.default_rng(0)
    x, residual, dy = (rng.normal(3, 2, (samples, 4, 5)) for _ in range(3))
    gamma, beta = rng.normal(1, 0.5, 5), rng.normal(0, 1, 5)
    first = np.moveaxis(x, -1, 1), np.moveaxis(residual, -1, 1), np.moveaxis(dy, -1, 1)
    options: dict[str, Any] = {"activation": "relu", "residual": first[1]}
    with double_precision():
        layer = GhostBatchNormalization(momentum=0.0, dtype="float64", activation="relu", **settings)
        layer.build(x.shape)
        layer.gamma.assign(gamma)
        layer.beta.assign(beta)
        found = call(layer, x, dy, residual, training=True)
        y, moments = reference_ghost.forward_batch(first[0], groups, gamma, beta, layer.epsilon, **options)
        right = reference_ghost.backward_batch(first[2], first[0], groups, gamma, beta, layer.epsilon, **options)
        expected = np.moveaxis(y, 1, -1), np.moveaxis(right.x, 1, -1), None, right.scale, right.shift
        for mine, theirs in zip(found, expected, strict=True):
            if mine is not None and theirs is not None:
                np.testing.assert_allclose(mine, theirs, atol=1e-10)
        assert right.residual is not None
        assert found.residual is not None
        np.testing.assert_allclose(found.residual, np.moveaxis(right.residual, 1, -1), atol=1e-10)
        np.testing.assert_allclose(values(layer.moving_mean), moments.mean, atol=1e-10)
        np.testing.assert_allclose(values(layer.moving_variance), moments.var, atol=1e-10)


def test_a_number_of_samples_that_is_not_known_while_it_is_traced_makes_no_difference() -> None:
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(3, 2, (7, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), GhostBatchNormalization(virtual_batch_size=3, momentum=0.0)])
    model.compile("sgd", "mse")
    alone = GhostBatchNormalization(virtual_batch_size=3)
    right = float(np.mean((values(alone(x, training=True)) - x) ** 2))
    assert model.fit(x, x, batch_size=7, verbose=0, shuffle=False).history["loss"] == pytest.approx([right], rel=1e-4)
    np.testing.assert_allclose(values(model.layers[0].moving_mean), x.mean(0), rtol=1e-5)


def test_shuffled_ones_are_drawn_again_and_are_right_each_time() -> None:
    x = np.arange(64, dtype="float32")[:, None]
    layer = GhostBatchNormalization(virtual_batch_size=32, order="shuffled", seed=1, epsilon=1e-6)
    first, second = (values(layer(x, training=True))[:, 0] for _ in range(2))
    assert not np.array_equal(first, second)
    # Within a virtual batch the output rises evenly with x: two straight lines through all points.
    for y in (first, second):
        assert y.mean() == pytest.approx(0, abs=1e-5)
        assert np.sum(y**2) == pytest.approx(64, rel=1e-4)


def test_masked_values_are_in_no_virtual_batch() -> None:
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 3)).astype("float32")
    x[:, 3:] = np.nan
    mask = np.broadcast_to(np.arange(5) < 3, (4, 5))
    y = values(GhostBatchNormalization(virtual_batch_size=2)(x, training=True, mask=mask))
    right = values(GhostBatchNormalization(virtual_batch_size=2)(x[:, :3], training=True))
    np.testing.assert_allclose(y[:, :3], right, atol=1e-5)


def test_inference_is_plain() -> None:
    x = np.random.default_rng(0).normal(3, 2, (5, 4)).astype("float32")
    ghost, plain = GhostBatchNormalization(num_splits=2), BatchNormalization()
    np.testing.assert_array_equal(values(ghost(x)), values(plain(x)))


@pytest.mark.parametrize("samples", [1, 7, 40])
def test_a_whole_number_and_a_tensor_are_divided_alike(samples: int) -> None:
    for sizes in (Sizes(3, None, None), Sizes(None, 4, None), Sizes(16, None, 1)):
        by_tensor = [int(part) for part in sizes.of(keras.ops.convert_to_tensor(samples))]
        assert by_tensor == list(sizes.of(samples))


def test_single_values_are_refused_or_normalized_by_the_moving_statistics() -> None:
    x = np.array([[1.0], [3.0], [5.0]], "float32")
    settings: dict[str, Any] = {"virtual_batch_size": 2, "smallest": 1, "name": "g"}
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input shape"):
        GhostBatchNormalization(**settings)(x, training=True)
    y = values(GhostBatchNormalization(**settings, on_tiny_batch="running", epsilon=1e-6)(x, training=True))
    np.testing.assert_allclose(y, [[-1], [1], [5]], rtol=1e-4)


def test_the_config_comes_back() -> None:
    layer = GhostBatchNormalization(num_splits=4, order="shuffled", seed=3, activation="relu", name="layer")
    again = GhostBatchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.sizes == layer.sizes


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {},
        "virtual_batch_size or num_splits must be given, and not both, received virtual_batch_size=None, "
        "num_splits=None: pass for example virtual_batch_size=128.",
    ),
    ({"num_splits": 0}, "num_splits must be a whole number, 1 or more, received 0: pass for example 32."),
    (
        {"num_splits": 2, "order": "shuffle"},
        "unknown order 'shuffle': did you mean 'shuffled'? Known: consecutive, interleaved, shuffled.",
    ),
    (
        {"num_splits": 2, "renorm": True},
        "virtual batches are normalized by themselves, received renorm=True: leave it out.",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the whole message follows
        GhostBatchNormalization(**settings)
    assert str(error.value) == message
