"""RecalibrateStatistics: when it recalibrates, and that validation, saving and stopping see it, on each backend."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError, NothingChanged
from normwise.keras import BatchNormalization, RecalibrateStatistics
from tests.keras.calls import values

RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.normal(size=(96, 4))).astype("float32")
Y = X[:, :1] - X[:, 1:2]
MEAN = X.astype("float64").mean(0)


def model_of(norm: Any = BatchNormalization, **settings: Any) -> Any:
    model = keras.Sequential(
        [keras.Input((4,)), norm(name="first"), keras.layers.Dense(3), norm(name="second"), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(1e-2), "mse", **settings)
    return model


class Means(keras.callbacks.Callback):
    """Notes whether the first layer's moving mean is ``MEAN`` where the validation begins, and where the epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.at_validation: list[bool] = []
        self.at_the_end: list[bool] = []

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002
        self.at_validation.append(self.recalibrated())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self.at_the_end.append(self.recalibrated())

    def recalibrated(self) -> bool:
        return bool(np.allclose(values(self.model.get_layer("first").moving_mean), MEAN, atol=1e-5))


def fit(model: Any, *callbacks: Any, **settings: Any) -> Any:
    return model.fit(X, Y, verbose=0, shuffle=False, callbacks=[*callbacks], **settings)


@pytest.mark.parametrize("validation", [None, (X, Y)])
@pytest.mark.parametrize(
    ("settings", "when"),
    [({}, [True] * 5), ({"every": 2}, [False, True, False, True, True]), ({"every": 9}, [False] * 4 + [True])],
)
def test_every_so_many_epochs_and_in_the_last(settings: Any, when: list[bool], validation: Any) -> None:
    means = Means()
    fit(model_of(), RecalibrateStatistics(X, **settings), means, epochs=5, validation_data=validation)
    assert means.at_the_end == when
    assert means.at_validation == (when if validation else [])


@pytest.mark.parametrize("norm", [keras.layers.BatchNormalization, BatchNormalization], ids=["keras", "normwise"])
def test_the_validation_is_by_the_new_statistics_and_training_is_as_without(norm: Any) -> None:
    steps = 1 if keras.backend.backend() == "torch" else 3  # more than one Keras refuses there
    weights, losses = [], []
    callback = RecalibrateStatistics((X, Y))
    for callbacks in ([callback], []):
        keras.utils.set_random_seed(1)
        model = model_of(norm, steps_per_execution=steps)
        history = fit(model, *callbacks, epochs=2, validation_data=(X, Y), batch_size=24).history
        weights.append([values(variable) for variable in model.trainable_variables])
        losses.append(history["loss"])
        if callbacks:
            assert model.evaluate(X, Y, verbose=0) == pytest.approx(history["val_loss"][-1], rel=1e-5)
            assert np.allclose(values(model.get_layer("first").moving_mean), MEAN, atol=1e-5)
    assert losses[0] == losses[1]
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
    assert callback.report is not None
    assert callback.report.passes == 1  # in step


def test_training_goes_on_from_what_was_recalibrated() -> None:
    model = model_of()
    layer = model.get_layer("first")
    seen: list[Any] = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            if hasattr(model, "jax_state_sync"):
                model.jax_state_sync()
            seen.append(values(layer.moving_mean).copy())

    fit(model, RecalibrateStatistics(X), Look(), epochs=2, batch_size=96, validation_data=(X, Y))
    assert np.allclose(seen[0], 0.01 * MEAN, atol=1e-5)  # from zero
    assert np.allclose(seen[1], MEAN, atol=1e-5)  # from the mean, by a batch that has it too


def test_checkpoints_have_the_new_statistics(tmp_path: Path) -> None:
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    fit(model_of(), RecalibrateStatistics(X, every=2), save, epochs=2)
    saved = []
    for epoch in (1, 2):
        model = model_of()
        model.load_weights(tmp_path / f"{epoch}.weights.h5")
        saved.append(bool(np.allclose(values(model.get_layer("first").moving_mean), MEAN, atol=1e-5)))
    assert saved == [False, True]


def test_restored_weights_are_recalibrated_too() -> None:
    model = model_of()
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=1, restore_best_weights=True)
    callback = RecalibrateStatistics(X, every=9)
    history = fit(model, stop, callback, epochs=8)
    assert len(history.epoch) == 2
    kernel = values(model.layers[1].kernel).astype("float64")
    assert np.array_equal(kernel, stop.best_weights[4])
    assert np.allclose(values(model.get_layer("first").moving_mean), MEAN, atol=1e-5)
    gamma, beta, bias = (
        values(v).astype("float64") for v in (model.layers[0].gamma, model.layers[0].beta, model.layers[1].bias)
    )
    x = X.astype("float64")
    hidden = (gamma * (x - MEAN) / np.sqrt(x.var(0, ddof=1) + 1e-3) + beta) @ kernel + bias
    assert np.allclose(values(model.get_layer("second").moving_mean), hidden.mean(0), atol=1e-5)


def test_at_the_end_nothing_is_done_twice() -> None:
    callback = RecalibrateStatistics(X)
    model = model_of()
    fit(model, callback, epochs=2)
    report = callback.report
    callback.on_train_end()
    assert callback.report is report
    model.get_layer("first").moving_mean.assign([0.0] * 4)
    callback.on_train_end()
    assert callback.report is not report


def test_an_evaluate_of_its_own_changes_nothing() -> None:
    callback, model = RecalibrateStatistics(X), model_of()
    model.evaluate(X, Y, verbose=0, callbacks=[callback])
    assert callback.report is None
    assert values(model.get_layer("first").moving_mean).tolist() == [0, 0, 0, 0]


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(NormwiseError) as error:
        RecalibrateStatistics(iter([X]))
    assert str(error.value) == (
        "RecalibrateStatistics goes through its data in every epoch, received list_iterator, which can be gone through "
        "once: pass arrays, a data set, or list(...) of it."
    )
    with pytest.raises(NormwiseError) as error:
        RecalibrateStatistics(X, every=0)
    assert str(error.value) == "every is a number of epochs, 1 or more, received 0: pass 1 for every epoch."


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        (None, {}),
        (X[:, :3], {}),
        (X, {"estimator": "foo"}),
        (X, {"layers": ["foo"]}),
        (X, {"at_mots": 1}),
        (X, {"at_most": "3"}),
        (X, {"forward_fn": "call"}),
    ],
)
def test_a_mistake_costs_no_epoch(data: Any, settings: Any) -> None:
    model = model_of()
    before = [values(weight) for weight in model.weights]
    with pytest.raises((NormwiseError, TypeError, ValueError)):
        fit(model, RecalibrateStatistics(data, every=9, **settings), epochs=9)
    for weight, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(values(weight), kept)


def test_data_that_recalibrate_nothing_are_said_once_before_the_first_epoch() -> None:
    heard: list[int] = []
    start = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: heard.append(epoch))  # noqa: ARG005
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        fit(model_of(), RecalibrateStatistics([X * np.nan]), start, epochs=2)
    said = [str(each.message) for each in caught if each.category is NothingChanged]
    assert len(said) == 1
    assert said[0].startswith("RecalibrateStatistics: 0 of 2 batch norms recalibrated with 96 samples in 1 batch\n")
    assert "first: all its inputs were NaN or inf" in said[0]
    with pytest.warns(NothingChanged):  # before any epoch, though nothing is due before the ninth
        RecalibrateStatistics.rehearse(_ready(RecalibrateStatistics([X * np.nan], every=9)))


def _ready(callback: Any) -> Any:
    callback.set_model(model_of())
    return callback
