"""``recalibrate`` of Keras models: what the statistics are, against plain NumPy and the definition, layer by layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import normwise
import normwise.keras as nk
from normwise.estimators import Ema, RunningStatistics, Window, named
from normwise.keras.models.recalibrate import recalibrate
from normwise.kernels import reference
from tests.keras.calls import values
from tests.keras.recalibration_models import (
    CALLED_TWICE,
    MODELS,
    functional,
    images,
    inputs_of_norms,
    norms,
    sequential,
)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_has_the_moments_of_what_it_meets_at_inference(name: str) -> None:
    model, x = MODELS[name](), images()
    report = normwise.recalibrate(model, [(x[:10], None), (x[10:], None)])
    in_step = name not in CALLED_TWICE
    assert (report.batches, report.samples, report.in_step) == (2, 20, in_step)
    assert report.passes == (1 if in_step else len(norms(model)))
    assert len(report.recalibrated) == len(norms(model))
    for layer, met in zip(norms(model), inputs_of_norms(model, x), strict=True):
        spread = met.std(0).max()
        np.testing.assert_allclose(values(layer.moving_mean), met.mean(0), rtol=1e-5, atol=1e-5 * spread)
        np.testing.assert_allclose(values(layer.moving_variance), met.var(0, ddof=1), rtol=2e-5)


def test_inference_is_that_of_the_formula_with_these_moments() -> None:
    model, x = sequential(), images()
    recalibrate(model, x)
    last = norms(model)[-1]
    met = inputs_of_norms(model, x)[-1]
    right = reference.forward_fixed(
        met,
        met.mean(0),
        met.var(0, ddof=1),
        values(last.gamma),
        values(last.beta),
        last.epsilon,
    )
    y = values(last(met.astype("float32"), training=False))
    np.testing.assert_allclose(y, right, atol=2e-4)


def test_it_depends_neither_on_the_batches_nor_on_the_old_statistics() -> None:
    one, other, x = functional(), functional(), images()
    other.set_weights(one.get_weights())
    for layer in norms(other):
        layer.moving_mean.assign(np.full(layer.moving_mean.shape, 50.0))
        layer.moving_variance.assign(np.full(layer.moving_mean.shape, 1e-3))
    recalibrate(one, x)
    recalibrate(other, [x[::-1][start : start + 5] for start in range(0, 20, 5)])
    for first, second in zip(norms(one), norms(other), strict=True):
        np.testing.assert_allclose(values(first.moving_mean), values(second.moving_mean), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(values(first.moving_variance), values(second.moving_variance), rtol=1e-4)


def test_a_second_call_changes_hardly_anything() -> None:
    model, x = functional(), images()
    recalibrate(model, x)
    again = recalibrate(model, x)
    assert max(moved.largest for moved in again.recalibrated.values()) < 1e-5


def test_by_the_batch_one_pass_normalizes_the_layers_below_as_training_does() -> None:
    model, x = sequential(), images()
    conv, one, relu, flat, dense, two = model.layers[:6]
    batches = [x[:10], x[10:]]
    met = []
    for batch in batches:
        h = np.asarray(values(conv(batch)), np.float64)
        over = (0, 1, 2)
        normalized = (h - h.mean(over)) / np.sqrt(h.var(over) + one.epsilon)
        h = normalized * values(one.gamma) + values(one.beta)
        met.append(np.asarray(values(dense(flat(relu(h.astype("float32"))))), np.float64))
    report = recalibrate(model, batches, upstream="batch")
    assert report.passes == 1
    everything = np.concatenate(met)
    np.testing.assert_allclose(values(two.moving_mean), everything.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values(two.moving_variance), everything.var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("estimator", ["cumulative", "ema", "debiased_ema", Ema(0.3), Window(1, 2)])
def test_any_estimator_may_be_asked_for(estimator: Any) -> None:
    x = np.random.default_rng(0).normal(5, 2, (20, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(momentum=0.9)])
    batches = [x[:8], x[8:16], x[16:]]
    recalibrate(model, batches, estimator=estimator)
    by = named(estimator, weight_of_new=0.1) if isinstance(estimator, str) else estimator
    right = RunningStatistics.start(3)
    for batch in batches:
        right = by.update(right, reference.moments(batch))
    np.testing.assert_allclose(values(model.layers[0].moving_mean), right.mean, rtol=1e-5)
    np.testing.assert_allclose(values(model.layers[0].moving_variance), right.var, rtol=1e-5)


def test_a_mean_that_is_large_against_the_spread_costs_no_digits() -> None:
    x = (1e4 + np.random.default_rng(0).normal(size=(4000, 2))).astype("float32")
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    recalibrate(model, x, batch_size=100)
    np.testing.assert_allclose(
        values(model.layers[0].moving_variance), np.var(x, 0, ddof=1, dtype=np.float64), rtol=1e-6
    )


@pytest.mark.parametrize("ours", [True, False])
def test_a_mask_holds_here_too(ours: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(4, 2, (6, 5, 3)).astype("float32")
    lengths = np.array([5, 3, 1, 4, 2, 5])
    counts = np.arange(5) < lengths[:, None]
    x[~counts] = 0.0
    layer = nk.BatchNormalization() if ours else keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.Masking(0.0), layer])
    recalibrate(model, x, batch_size=4)
    met = x[counts].astype(np.float64)
    np.testing.assert_allclose(values(layer.moving_mean), met.mean(0), rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance), met.var(0, ddof=1), rtol=1e-5)


def test_channels_that_are_not_last() -> None:
    x = np.random.default_rng(0).normal(4, 2, (6, 3, 5)).astype("float32")
    layer = keras.layers.BatchNormalization(axis=1)
    recalibrate(keras.Sequential([keras.Input((3, 5)), layer]), x)
    np.testing.assert_allclose(values(layer.moving_mean), x.mean((0, 2), dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance), x.var((0, 2), dtype=np.float64, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_in_mixed_precision_the_statistics_are_those_of_what_arrives(policy: str) -> None:
    x = np.random.default_rng(0).normal(4, 2, (64, 3)).astype("float32")
    layers = [keras.layers.Dense(4, dtype=policy), keras.layers.BatchNormalization(dtype=policy)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    recalibrate(model, x, batch_size=30)
    met = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(layers[0](x), "float32")), np.float64)
    assert layers[1].moving_mean.dtype == "float32"
    np.testing.assert_allclose(values(layers[1].moving_mean), met.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values(layers[1].moving_variance), met.var(0, ddof=1), rtol=1e-5)


def test_what_is_not_finite_does_not_enter() -> None:
    x = np.random.default_rng(0).normal(4, 2, (12, 3)).astype("float32")
    x[1, 0], x[2, 1] = np.nan, np.inf
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(name="bn")], name="model")
    report = recalibrate(model, x, batch_size=4)
    clean = [x[4:, 0], x[4:, 1], x[:, 2]]
    np.testing.assert_allclose(values(model.layers[0].moving_mean), [each.mean() for each in clean], rtol=1e-5)
    assert report.recalibrated["model/bn"].not_finite == 1


def test_an_estimator_of_the_layer_goes_on_from_what_stands_behind_the_new_statistics() -> None:
    x = np.random.default_rng(0).normal(4, 2, (12, 3)).astype("float32")
    more = np.random.default_rng(1).normal(9, 1, (5, 3)).astype("float32")
    layer = nk.BatchNormalization(estimator="pooled")
    recalibrate(keras.Sequential([keras.Input((3,)), layer]), x, batch_size=6)
    assert (int(layer.updates.value), values(layer.count).tolist()) == (2, [12.0] * 3)
    layer(more, training=True)
    both = np.concatenate([x, more]).astype(np.float64)
    np.testing.assert_allclose(values(layer.moving_mean), both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance), both.var(0, ddof=1), rtol=1e-5)


def test_of_a_layer_with_domains_the_statistics_of_the_chosen_one_are_set() -> None:
    x = np.random.default_rng(0).normal(4, 2, (12, 3)).astype("float32")
    layer = nk.PerDomainBatchNormalization(["day", "night", "dusk"])
    model = keras.Sequential([keras.Input((3,)), layer])
    with nk.domain(model, "night"):
        recalibrate(model, x)
    np.testing.assert_allclose(values(layer.moving_mean), [[0] * 3, x.mean(0), [0] * 3], rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance), [[1] * 3, x.var(0, ddof=1), [1] * 3], rtol=1e-5)
    assert layer.domain == "day"


def test_it_stops_when_enough_is_known() -> None:
    x = np.random.default_rng(0).normal(4, 2, (4000, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    report = recalibrate(model, x, tolerance=0.05)
    assert report.stopped_early
    assert report.standard_error <= 0.05
    assert report.batches < 125
    np.testing.assert_allclose(values(model.layers[0].moving_mean), x.mean(0), atol=0.3)
