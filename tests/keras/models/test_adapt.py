"""``adapt`` of Keras models: the formula in every layer, the prior, domains, and how it is undone."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

import normwise
import normwise.keras as nk
from normwise.errors import NormwiseError, UnknownName
from normwise.keras.models.adapt import adapt
from normwise.keras.models.recalibrate import recalibrate
from normwise.moments import Moments
from tests.keras.calls import values
from tests.keras.recalibration_models import everything, images, inputs_of_norms, norms, sequential


def one(channels: int = 1, **settings: Any) -> tuple[Any, Any]:
    layer = keras.layers.BatchNormalization(name="bn", **settings)
    return keras.Sequential([keras.Input((channels,)), layer], name="model"), layer


def data(samples: int = 12, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(4, 2, (samples, 3)).astype("float32")


def test_mean_and_total_variance_are_those_of_the_formula_in_every_layer() -> None:
    model, x = sequential(), images()
    for layer in norms(model):
        layer.moving_mean.assign(np.arange(len(values(layer.moving_mean))))
        layer.moving_variance.assign(2 + np.arange(len(values(layer.moving_mean))))
    sources = [(values(layer.moving_mean).copy(), values(layer.moving_variance).copy()) for layer in norms(model)]
    report = normwise.adapt(model, x, prior=10, batch_size=10)
    assert (report.samples, report.batches, report.prior) == (20, 2, 10)
    for layer, (mean, var), met in zip(norms(model), sources, inputs_of_norms(model, x), strict=True):
        right = Moments(mean, var, 10).merge(Moments(met.mean(0), met.var(0, ddof=1), 20))
        np.testing.assert_allclose(values(layer.moving_mean), right.mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(values(layer.moving_variance), right.var, rtol=1e-4)


def test_an_infinite_prior_is_the_source_byte_for_byte() -> None:
    model, x = sequential(), images()
    before = everything(model)
    adapt(model, x, prior=math.inf)
    assert everything(model) == before


def test_no_prior_is_recalibrate() -> None:
    model, x = sequential(), images()
    other = sequential()
    other.set_weights(model.get_weights())
    adapt(model, x, prior=0)
    recalibrate(other, x)
    for layer, same in zip(norms(model), norms(other), strict=True):
        assert values(layer.moving_mean).tobytes() == values(same.moving_mean).tobytes()
        assert values(layer.moving_variance).tobytes() == values(same.moving_variance).tobytes()


def test_one_sample_of_one_value_adapts_with_a_prior_and_not_without() -> None:
    model, layer = one()
    assert [*adapt(model, np.array([[4.0]]), prior=3).adapted] == ["model/bn"]
    assert values(layer.moving_mean).tolist() == [1.0]
    assert values(layer.moving_variance).tolist() == [0.75 + 16 * 3 / 16]
    assert adapt(model, np.array([[4.0]]), prior=0).adapted == {}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_channel_whose_statistics_were_lost_has_no_prior(wrong: float) -> None:
    model, layer = one(3)
    layer.moving_mean.assign([wrong, 0.0, 0.0])
    x = data(8)
    adapt(model, x, prior=8)
    right = x.mean(0) * [1, 0.5, 0.5]
    np.testing.assert_allclose(values(layer.moving_mean), right, rtol=1e-5)
    np.testing.assert_allclose(values(layer.moving_variance)[0], x[:, 0].var(ddof=1), rtol=1e-5)


def test_shifted_data_are_normalized_as_the_source_was() -> None:
    model, _ = one(3)
    recalibrate(model, data(400))
    shifted = 3 * data(400, seed=1) - 20
    assert np.abs(model.predict(shifted, verbose=0).mean(0)).min() > 2
    adapt(model, shifted)
    y = model.predict(shifted, verbose=0)
    assert np.abs(y.mean(0)).max() < 0.1
    assert np.abs(y.std(0) - 1).max() < 0.1


def test_undo_gives_every_byte_back_and_only_once() -> None:
    model, x = sequential(), images()
    before = everything(model)
    report = adapt(model, x)
    assert everything(model) != before
    report.undo()
    assert everything(model) == before
    with pytest.raises(NormwiseError) as refused:
        report.undo()
    assert str(refused.value) == "this adaptation was undone already: call adapt again for another."


def test_at_the_end_of_a_block_all_is_as_before_also_after_an_error() -> None:
    model, x = sequential(), images()
    before = everything(model)
    inside = []
    with pytest.raises(KeyError), adapt(model, x):  # noqa: PT012  # what is raised is not the point
        inside += everything(model)
        raise KeyError
    assert inside != before
    assert everything(model) == before


def test_how_much_stands_behind_the_statistics_in_training_stays() -> None:
    layer = nk.BatchNormalization(estimator="pooled")
    model = keras.Sequential([keras.Input((3,)), layer])
    recalibrate(model, data())
    adapt(model, data(seed=1))
    assert (int(layer.updates.value), values(layer.count).tolist()) == (1, [12.0] * 3)


def test_of_a_model_with_domains_the_one_that_is_named_adapts() -> None:
    layer = nk.PerDomainBatchNormalization(["day", "night"], name="per_domain")
    plain = keras.layers.BatchNormalization(name="plain")
    model = keras.Sequential([keras.Input((3,)), layer, plain], name="model")
    x, before = data(), values(plain.moving_mean).tobytes()
    report = adapt(model, x, domain="night", prior=12)
    assert report.skipped == {
        "model/plain": "it has no statistics per domain: name it in layers to adapt it for all of them"
    }
    np.testing.assert_allclose(values(layer.moving_mean), [[0] * 3, x.mean(0) / 2], rtol=1e-5)
    assert layer.domain == "day"
    assert values(plain.moving_mean).tobytes() == before
    adapt(model, x, domain="day", prior=12)
    report.undo()  # of the night, which leaves the day as it is now
    np.testing.assert_allclose(values(layer.moving_mean), [x.mean(0) / 2, [0] * 3], rtol=1e-5)
    assert [*adapt(model, x, layers=["plain"]).adapted] == ["model/plain"]
    with pytest.raises(UnknownName, match=r"^unknown domain 'dusk'"):
        adapt(model, x, domain="dusk")
    with pytest.raises(NormwiseError, match=r"^Sequential has no layer with statistics per domain"):
        adapt(one(3)[0], x, domain="night")


def test_what_cannot_be_is_refused() -> None:
    model, _ = one(3)
    with pytest.raises(NormwiseError, match=r"^adapt needs a prior of 0 samples or more, received -1"):
        adapt(model, data(), prior=-1)
    with pytest.raises(TypeError, match=r"^adapt needs a Keras model, received str: pass the model itself.$"):
        adapt("resnet", data())
    with pytest.raises(NormwiseError, match=r"^adapt received no batches"):
        adapt(model, [])


def test_an_error_leaves_every_byte() -> None:
    model, x = sequential(), images()
    before = everything(model)
    with pytest.raises(Exception, match="incompatible"):
        adapt(model, [x, np.ones((2, 3), "float32")])
    assert everything(model) == before
