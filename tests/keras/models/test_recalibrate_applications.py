"""``recalibrate`` on the networks of ``keras.applications``, as they are, without weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import normwise.keras as nk
from normwise.keras.models.recalibrate import recalibrate
from tests.keras.calls import BACKEND, values
from tests.keras.recalibration_models import inputs_of_norms, norms

NETWORKS = {"ResNet50": (32, 53), "InceptionV3": (75, 94), "Xception": (71, 40), "MobileNetV2": (32, 52)}
"""The least image that each takes, and how many batch norms it has."""

SAMPLES = 6


def network(name: str) -> tuple[Any, Any]:
    """A network and a batch of images for it, of which one channel is brighter."""
    size, _ = NETWORKS[name]
    made: Any = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(size, size, 3))
    x = np.random.default_rng(0).normal((0, 1, 3), 1, (SAMPLES, size, size, 3)).astype("float32")
    return made, x


# Eager JAX compiles every operation for every shape: 20 s of a core for the smallest network.
@pytest.mark.parametrize("name", ["MobileNetV2"] if BACKEND == "jax" else NETWORKS)
def test_by_the_batch_every_layer_gets_the_moments_that_training_would_see(name: str) -> None:
    model, x = network(name)
    report = recalibrate(model, [x], upstream="batch")
    assert len(report.recalibrated) == len(norms(model)) == NETWORKS[name][1]
    assert (report.skipped, report.not_reached, report.passes, report.samples) == ({}, (), 1, SAMPLES)
    ours = [(values(layer.moving_mean), values(layer.moving_variance)) for layer in norms(model)]
    ours = [(mean.copy(), var.copy()) for mean, var in ours]
    nk.convert(model)  # Keras's own variance of six values that are alike has few digits
    for layer, (mean, var), met in zip(norms(model), ours, inputs_of_norms(model, x, training=True), strict=True):
        spread = met.var(0, ddof=1) + layer.epsilon
        far = np.abs(mean - met.mean(0)) / np.sqrt(spread)
        wide = np.abs(np.log((var + layer.epsilon) / spread))
        # Behind some fifty layers, the six values of a channel may be so alike that float32 shows in a few.
        assert max(np.median(far), np.median(wide)) < 0.01, layer.name
        assert max(np.quantile(far, 0.95), np.quantile(wide, 0.95)) < 0.05, layer.name


@pytest.mark.skipif(BACKEND == "jax", reason="the time that eager JAX takes to compile, as above")
def test_layer_by_layer_every_layer_meets_what_it_was_given_the_moments_of() -> None:
    model, x = network("MobileNetV2")
    report = recalibrate(model, [x], memory=0)
    assert report.passes == NETWORKS["MobileNetV2"][1]
    for layer, met in zip(norms(model), inputs_of_norms(model, x), strict=True):
        spread = np.sqrt(met.var(0) + layer.epsilon)
        assert (np.abs(values(layer.moving_mean) - met.mean(0)) / spread).max() < 1e-3, layer.name
        np.testing.assert_allclose(values(layer.moving_variance), met.var(0, ddof=1), rtol=2e-3, atol=1e-6)
