"""Statistics per domain: each layer by layer what a layer of its own would have, in compiled functions too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError, UnknownName
from normwise.keras import BatchNormalization, PerDomainBatchNormalization, domain
from tests.keras.calls import call, values

DOMAINS = ["day", "night"]


def batch(mean: float, shape: tuple[int, ...] = (32, 4), seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(mean, 2, shape).astype("float32")


@pytest.mark.parametrize("shape", [(32, 4), (8, 16, 16, 32)])
def test_each_domain_is_a_layer_of_its_own(shape: tuple[int, ...]) -> None:
    layer = PerDomainBatchNormalization(DOMAINS, momentum=0.9, activation="relu")
    alone = {name: BatchNormalization(momentum=0.9, activation="relu") for name in DOMAINS}
    for built in (layer, *alone.values()):
        built.build(shape)
    for seed, name in enumerate(["day", "night", "night"]):
        x, dy = batch(5.0 if name == "day" else -3.0, shape, seed), batch(0.0, shape, seed + 9)
        with domain(layer, name):
            found, at_inference = call(layer, x, dy, training=True), values(layer(x))
        for mine, right in zip(found, call(alone[name], x, dy, training=True), strict=True):
            if mine is not None and right is not None:
                np.testing.assert_allclose(mine, right, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(at_inference, values(alone[name](x)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        values(layer.moving_mean), [values(alone[name].moving_mean) for name in DOMAINS], rtol=1e-4, atol=1e-5
    )


def test_compiled_functions_follow_the_choice_and_files_keep_it(tmp_path: Path) -> None:
    layer = PerDomainBatchNormalization(DOMAINS, momentum=0.0, name="bn")
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("sgd", "mse")
    day, night = batch(5.0), batch(-3.0)
    for name, x in (("day", day), ("night", night)):
        with domain(model, name):
            model.fit(x, x, batch_size=32, verbose=0)
    np.testing.assert_allclose(values(layer.moving_mean), [day.mean(0), night.mean(0)], rtol=1e-4)
    by_day = model.predict(night, verbose=0)
    with domain(model, "night"):
        by_night = model.predict(night, verbose=0)
        model.save(tmp_path / "model.keras")
    assert np.abs(by_night.mean(0)).max() < 0.1
    assert np.abs(by_day.mean(0)).min() > 2
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(night, verbose=0), by_night, atol=1e-5)


def test_a_nan_or_a_single_value_moves_no_domain() -> None:
    layer = PerDomainBatchNormalization(DOMAINS, on_tiny_batch="running")
    layer(np.full((4, 3), np.nan, "float32"), training=True)
    layer(np.ones((1, 3), "float32"), training=True)
    np.testing.assert_array_equal(values(layer.moving_mean), np.zeros((2, 3)))
    np.testing.assert_array_equal(values(layer.moving_variance), np.ones((2, 3)))


def test_the_domain_before_comes_back_after_an_error() -> None:
    layer = PerDomainBatchNormalization(DOMAINS)
    with domain(layer, "night"):
        layer.build((None, 3))
        assert layer.domain == "night"
        with pytest.raises(ZeroDivisionError), domain(layer, "day"):
            _ = 1 / 0
        assert layer.domain == "night"
    assert layer.domain == "day"


def test_what_is_refused() -> None:
    layer = PerDomainBatchNormalization(DOMAINS)
    with pytest.raises(UnknownName) as unknown, domain(layer, "nigth"):
        pass
    assert str(unknown.value) == "unknown domain 'nigth': did you mean 'night'? Known: day, night."
    with pytest.raises(NormwiseError) as none, domain(BatchNormalization(), "day"):
        pass
    assert str(none.value) == (
        "BatchNormalization has no layer with statistics per domain: "
        "build it with normwise.keras.PerDomainBatchNormalization."
    )
    with pytest.raises(TypeError) as string:
        PerDomainBatchNormalization("day")
    assert str(string.value) == "domains must be a list of names, received 'day': pass ['day']."
    with pytest.raises(ValueError) as twice:  # noqa: PT011  # the whole message follows
        PerDomainBatchNormalization(["day", "day"])
    assert str(twice.value) == (
        "domains must be names that differ, at least one, received ['day', 'day']: rename them."
    )
    with pytest.raises(ValueError) as renorm:  # noqa: PT011  # the whole message follows
        PerDomainBatchNormalization(DOMAINS, renorm=True)
    assert str(renorm.value) == ("statistics per domain are Keras's average, received renorm=True: leave it out.")
