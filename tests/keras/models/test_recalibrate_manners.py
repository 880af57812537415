"""``recalibrate`` as a guest in a Keras model: what it leaves behind, and what it says when it cannot go on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

import normwise
import normwise.keras as nk
from normwise.errors import NormwiseError, UnknownName
from normwise.keras.models.recalibrate import recalibrate
from normwise.recalibration.report import RecalibrateReport
from tests.keras.calls import values
from tests.keras.recalibration_models import everything, norms


def network(compiled: bool = True) -> Any:
    """Trained for a step, so that metrics, the optimizer and the seeds have moved."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(name="one"),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(4),
            nk.BatchNormalization(name="two"),
            keras.layers.Dense(1),
        ],
        name="network",
    )
    if compiled:
        model.compile("adam", "mse", metrics=["mae"])
        model.fit(data(), np.ones((32, 1)), batch_size=16, verbose=0)
    return model


def data(samples: int = 32) -> Any:
    return np.random.default_rng(samples).normal(3, 2, (samples, 3)).astype("float32")


def moving(model: Any) -> list[int]:
    """The numbers of the variables that are moving statistics."""
    found = {id(v) for layer in norms(model) for v in (layer.moving_mean, layer.moving_variance)}
    return [number for number, variable in enumerate(model.variables) if id(variable) in found]


def attributes(model: Any) -> list[dict[str, int]]:
    return [{name: id(value) for name, value in vars(layer).items()} for layer in model._flatten_layers()]


def noisy(samples: int = 16) -> Iterator[Any]:
    """Batches that use every generator."""
    for _ in range(2):
        noise = random.random() + np.random.rand()  # noqa: NPY002  # the global one is meant
        yield data(samples) + noise + values(keras.random.normal((samples, 3))), np.ones(samples)


@pytest.mark.parametrize("upstream", ["inference", "batch"])
def test_only_the_moving_statistics_are_different_afterwards(upstream: Any) -> None:
    model = network()
    values(keras.random.normal((1,)))  # makes Keras's global generator
    before, held = everything(model), attributes(model)
    keras.utils.set_random_seed(3)
    right = [random.random(), np.random.rand(), *values(keras.random.normal((2,)))]  # noqa: NPY002
    keras.utils.set_random_seed(3)
    recalibrate(model, noisy(), upstream=upstream)
    assert [random.random(), np.random.rand(), *values(keras.random.normal((2,)))] == right  # noqa: NPY002
    changed = [number for number, (was, now) in enumerate(zip(before, everything(model), strict=True)) if was != now]
    assert changed == moving(model)
    assert attributes(model) == held


@keras.saving.register_keras_serializable()
class Rude(keras.layers.Layer):
    """Does to its surroundings what a call should not do, then fails."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails, self.calls = fails, 0

    def build(self, _: Any) -> None:
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        self.calls += 1
        self.extra = 3
        self.seen.assign(self.seen + 1)
        self.add_loss(keras.ops.sum(x))
        self.trainable = False
        if self.fails and self.calls >= 3:
            raise KeyboardInterrupt
        return x


@pytest.mark.parametrize("fails", [True, False])
def test_whatever_a_call_does_the_model_is_as_before(fails: bool) -> None:
    rude = Rude(fails)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), rude, keras.layers.BatchNormalization()]
    )
    rude.trainable, rude.calls = True, 0
    rude._losses.clear()
    before = everything(model)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            recalibrate(model, [data(), data(), data()])
        assert everything(model) == before
    else:
        recalibrate(model, [data(), data(), data()])
        changed = [i for i, (was, now) in enumerate(zip(before, everything(model), strict=True)) if was != now]
        assert changed == moving(model)
    assert (rude.calls, rude.trainable, len(rude._losses)) == (0, True, 0)
    assert all("call" not in vars(layer) for layer in norms(model))


def test_an_error_in_the_middle_leaves_every_byte() -> None:
    model = network()
    before, held = everything(model), attributes(model)
    with pytest.raises(Exception, match="incompatible") as failed:
        recalibrate(model, [(data(), 0), (np.ones((4, 9), "float32"), 0)])
    assert everything(model) == before
    assert attributes(model) == held
    assert failed.value.__notes__[-1].startswith("Sequential was called with a ")
    assert failed.value.__notes__[-1].endswith("... if the model takes something else.")


@pytest.mark.parametrize("operation", [recalibrate, normwise.adapt, normwise.examine])
def test_a_data_set_that_nobody_batched_is_refused_with_what_to_do(operation: Any) -> None:
    samples = [(np.ones(3, "float32"), 1)] * 4
    with pytest.raises(Exception) as failed:  # noqa: PT011  # the framework's own, or normwise's
        operation(network(), samples)
    told = "\n".join([str(failed.value), *getattr(failed.value, "__notes__", ())])
    assert "batch the data first, for example dataset.batch(32)" in told, told
    assert "a float32 array of shape (3,)" in told


@pytest.mark.parametrize("operation", [recalibrate, normwise.adapt, normwise.examine])
def test_a_list_of_the_inputs_of_a_model_is_refused_with_what_to_do(operation: Any) -> None:
    """Keras's ``predict`` takes ``[x1, x2]``; here a list holds batches."""
    first, second = keras.Input((3,)), keras.Input((3,))
    added = keras.layers.Add()([first, second])
    model = keras.Model([first, second], keras.layers.BatchNormalization()(added))
    with pytest.raises(Exception) as failed:  # noqa: PT011  # the framework's own, or normwise's
        operation(model, [data(), data()])
    told = "\n".join([str(failed.value), *getattr(failed.value, "__notes__", ())])
    assert "the model has 2 inputs: pass a tuple (x1, x2), because a list is read as batches" in told, told
    operation(model, (data(), data()))


@pytest.mark.parametrize("operation", [recalibrate, normwise.adapt, normwise.examine])
@pytest.mark.parametrize("kind", ["model", "layer"])
def test_what_is_not_built_is_called_what_it_is(operation: Any, kind: str) -> None:
    layer = keras.layers.BatchNormalization(name="own")
    thing = keras.Sequential([layer], name="own") if kind == "model" else layer
    with pytest.raises(NormwiseError, match=f"needs a {kind} that is built, .* run one batch through the {kind} first"):
        operation(thing, data())


def test_a_statistic_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    layers = [keras.layers.BatchNormalization(dtype="float16", name=name) for name in ("one", "two")]
    model = keras.Sequential([keras.Input((1,), dtype="float16"), *layers], name="half")
    before = everything(model)
    with pytest.raises(NormwiseError) as failed:
        recalibrate(model, [np.array([[-6e4], [6e4]], "float16")])
    assert str(failed.value) == (
        "the statistics of batch norm 'half/one', up to 7.2e+09, do not fit its variables of float16: the model is as "
        "it was; keep these in float32."
    )
    assert everything(model) == before


def test_what_was_compiled_before_uses_the_new_statistics() -> None:
    model, x = network(), data()
    old = model.predict(x, verbose=0)
    loss = model.evaluate(x, np.ones((32, 1)), verbose=0)
    compiled = model.predict_function
    recalibrate(model, x)
    assert model.predict_function is compiled
    new = model.predict(x, verbose=0)
    np.testing.assert_allclose(new, values(model(x, training=False)), rtol=1e-5, atol=1e-5)
    assert np.abs(new - old).max() > 0.1
    assert model.evaluate(x, np.ones((32, 1)), verbose=0) != loss


def test_fit_goes_on_from_the_new_statistics() -> None:
    model, x = network(), data()
    recalibrate(model, x)
    layer = model.get_layer("one")
    start = values(layer.moving_mean).copy()
    model.optimizer.learning_rate.assign(0.0)
    met = values(model.layers[0](x))
    model.fit(x, np.ones((32, 1)), batch_size=32, verbose=0)
    np.testing.assert_allclose(values(layer.moving_mean), 0.99 * start + 0.01 * met.mean(0), rtol=1e-4, atol=1e-5)


def test_inside_of_fit_it_starts_from_the_newest_weights_and_fit_goes_on_from_it() -> None:
    model, x = network(), data()
    seen = []

    class Recalibrating(keras.callbacks.Callback):
        def on_epoch_end(self, *_: Any) -> None:
            recalibrate(self.model, x)
            met = values(self.model.layers[0](x))
            seen.append(np.abs(values(self.model.get_layer("one").moving_mean) - met.mean(0)).max())

    model.fit(x, np.ones((32, 1)), batch_size=16, epochs=2, verbose=0, callbacks=[Recalibrating()])
    assert max(seen) < 1e-4
    np.testing.assert_allclose(
        values(model.layers[0](x)).mean(0), values(model.get_layer("one").moving_mean), atol=1e-4
    )


def test_frozen_layers_stay_and_are_named() -> None:
    model, x = network(compiled=False), data()
    model.get_layer("one").trainable = False
    before = values(model.get_layer("one").moving_mean).tobytes()
    report = recalibrate(model, x)
    assert report.skipped == {"network/one": "it is frozen: its trainable is False while others learn"}
    assert [*report.recalibrated] == ["network/two"]
    assert values(model.get_layer("one").moving_mean).tobytes() == before
    report = recalibrate(model, x, layers=["one"])
    assert [*report.recalibrated] == ["network/one"]
    assert report.skipped == {"network/two": "it was not asked for"}
    np.testing.assert_allclose(
        values(model.get_layer("one").moving_mean), values(model.layers[0](x)).mean(0), rtol=1e-4
    )
    model.trainable = False  # as a whole: nothing learns that it could be frozen against
    assert len(recalibrate(model, x).recalibrated) == 2
    with pytest.raises(UnknownName, match=r"^unknown batch norm 'on'; "):
        recalibrate(model, x, layers=["on"])


def test_momentum_1_is_frozen_and_an_unbuilt_branch_has_nothing() -> None:
    class Half(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="half")
            self.used = keras.layers.BatchNormalization(momentum=1.0, name="used")
            self.other = keras.layers.BatchNormalization(name="other")

        def build(self, shape: Any) -> None:
            self.used.build(shape)

        def call(self, x: Any) -> Any:
            return self.used(x)

    model = Half()
    with pytest.raises(NormwiseError) as refused:
        recalibrate(model, data())
    assert str(refused.value) == (
        "recalibrate needs a model that is built, and 'half' has no variables yet: "
        "run one batch through the model first."
    )
    model(data())
    assert {*recalibrate(model, data()).skipped.values()} == {
        "it is frozen: its momentum is 1",
        "it has no statistics yet: no input ever came to it",
    }


def test_a_layer_that_no_batch_reaches_is_named() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(inputs))
    model.unused = keras.layers.BatchNormalization(name="unused")
    model.unused.build((None, 3))
    report = recalibrate(model, data())
    assert report.not_reached == ("unused",)
    assert isinstance(report, RecalibrateReport)


def test_a_model_without_batch_norms_has_a_report_too() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert str(recalibrate(model, data())) == "nothing recalibrated: the model has no batch norm"


def test_what_cannot_be_is_refused() -> None:
    model = network(compiled=False)
    with pytest.raises(TypeError, match=r"^recalibrate needs a Keras model, received str: pass the model itself.$"):
        recalibrate("resnet", data())
    with pytest.raises(NormwiseError, match=r"^recalibrate received no batches, so there is nothing to estimate from"):
        recalibrate(model, [])
    with pytest.raises(UnknownName, match=r"^unknown upstream 'above'; "):
        recalibrate(model, data(), upstream="above")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(NormwiseError, match=r"^tolerance must be a standard error"):
        recalibrate(model, data(), tolerance=-1.0)
