"""Keras's models with all batches in step, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.keras.models.adapt import adapt
from normwise.keras.models.recalibrate import recalibrate
from tests.keras.calls import values
from tests.keras.recalibration_models import CALLED_TWICE, MODELS, images, norms, sequential


def statistics(model: Any) -> list[Any]:
    return [values(each).copy() for layer in norms(model) for each in (layer.moving_mean, layer.moving_variance)]


def both(make: Callable[[], Any], operation: Any, batches: Any, **settings: Any) -> Any:
    """The report of in step; the statistics of layer by layer are the same, bit for bit."""
    found, reports = [], []
    for memory in (None, 0):
        keras.utils.set_random_seed(3)
        model = make()
        reports.append(operation(model, batches, memory=memory, **settings))
        found.append(statistics(model))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)
    movements = [[*(getattr(report, "recalibrated", None) or report.adapted).values()] for report in reports]
    assert movements[0] == movements[1]
    return reports[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_statistics_are_those_of_layer_by_layer(name: str) -> None:
    x = images()
    report = both(MODELS[name], recalibrate, [x[:8], x[8:17], x[17:]])
    twice = name in CALLED_TWICE
    assert report.why_not_in_step == ("a batch comes to a layer more than once" if twice else "")
    assert report.in_step == (not twice)


@pytest.mark.parametrize("prior", [0.0, 16.0])
def test_adapt_too(prior: float) -> None:
    report = both(sequential, adapt, [*np.array_split(images(), 3)], prior=prior)
    assert (report.prior, report.batches, report.samples) == (prior, 3, 20)


@pytest.mark.parametrize("seed", [None, 1])
def test_a_forward_that_draws_goes_layer_by_layer(seed: int | None) -> None:
    if seed is None and keras.backend.backend() == "jax":
        pytest.skip("JAX refuses to trace what has no seed")

    class Noisy(keras.layers.Layer):
        """Adds noise in inference too; ``seed`` None is Keras's global one."""

        def __init__(self) -> None:
            super().__init__()
            self.seed = None if seed is None else keras.random.SeedGenerator(seed)

        def call(self, x: Any) -> Any:
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)

    parts = [keras.layers.BatchNormalization(), Noisy(), keras.layers.BatchNormalization()]
    report = recalibrate(keras.Sequential([keras.Input((6, 6, 2)), *parts]), [images()[:8], images()[8:]])
    assert (report.in_step, report.why_not_in_step) == (False, "a forward draws random numbers")


def test_what_is_no_amount_of_memory_is_refused() -> None:
    for operation in (recalibrate, adapt):
        called: Any = operation
        with pytest.raises(NormwiseError) as refused:
            called(sequential(), images(), memory=-2)
        assert str(refused.value) == (
            f"{called.__name__} needs as memory a number of bytes, or a share of the free memory between 0 and 1, "
            "received -2: pass for example 2e9 or 0.5, 0 to go layer by layer, or leave it out."
        )
