"""MonitorStatistics against NumPy, in the logs and in TensorBoard's files, and as a guest in training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError, UnknownName
from normwise.keras import BatchNormalization, GhostBatchNormalization, MonitorStatistics, RecalibrateStatistics
from normwise.keras.models.drift import drift_of
from normwise.recalibration.batches import Batches
from tests.keras.calls import BACKEND, values

RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.normal(size=(96, 4))).astype("float32")
Y = X[:, :1] - X[:, 1:2]


def model_of(*behind: Any, norm: Any = BatchNormalization, **settings: Any) -> Any:
    model = keras.Sequential(
        [keras.Input((4,)), norm(name="first", **settings), *behind, keras.layers.Dense(1)], name="net"
    )
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


def found(model: Any, x: Any = X, **settings: Any) -> Any:
    wanted = {"layers": None, "forward_fn": None, "flat_below": 1e-6} | settings
    return drift_of(model, Batches([x[:40], x[40:]], called="MonitorStatistics"), **wanted)


def fit(model: Any, *callbacks: Any, **settings: Any) -> dict[str, list[float]]:
    history: dict[str, list[float]] = model.fit(X, Y, verbose=0, callbacks=[*callbacks], **settings).history
    return history


@pytest.mark.parametrize(
    "norm",
    [keras.layers.BatchNormalization, BatchNormalization, partial(GhostBatchNormalization, num_splits=2)],
    ids=["keras", "normwise", "ghost"],
)
def test_drift_and_ratio_are_those_of_the_formulas(norm: Any) -> None:
    model = model_of(norm=norm)
    layer = model.get_layer("first")
    layer.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    layer.moving_variance.assign([1.0, 2.0, 4.0, 8.0])
    mean, var = X.astype("float64").mean(0), X.astype("float64").var(0, ddof=1)
    before, spread = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 8.0])
    (drift,) = found(model).values()
    assert drift.drift == pytest.approx(np.sqrt(np.mean((mean - before) ** 2 / (spread + layer.epsilon))), rel=1e-6)
    ratios = (var + layer.epsilon) / (spread + layer.epsilon)
    assert drift.variance_ratio == pytest.approx(np.prod(ratios) ** 0.25, rel=1e-6)
    assert not drift.dead.any()


def test_a_layer_behind_another_meets_what_it_meets_at_inference() -> None:
    model = keras.Sequential(
        [keras.Input((4,)), BatchNormalization(name="a"), BatchNormalization(name="b")], name="net"
    )
    first, second = model.layers
    first.moving_mean.assign(X.mean(0))
    first.moving_variance.assign(4 * X.var(0))  # what comes out of the first has a quarter of the variance
    drift = found(model)
    assert drift["net/a"].drift == pytest.approx(0, abs=1e-5)
    assert drift["net/b"].drift == pytest.approx(0, abs=1e-5)
    assert drift["net/b"].variance_ratio == pytest.approx(0.25, rel=0.02)
    assert values(second.moving_mean).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "behind"),
    [
        ({"activation": "relu"}, []),
        ({}, [keras.layers.ReLU]),
        ({}, [lambda: keras.layers.Activation("relu")]),
        ({}, [lambda: keras.layers.ReLU(max_value=6.0)]),
    ],
)
def test_channels_that_the_activation_makes_zero_are_dead(settings: Any, behind: list[Callable[[], Any]]) -> None:
    model = model_of(*(make() for make in behind), **settings)
    model.get_layer("first").beta.assign([-99.0, 0.0, 0.0, -99.0])
    (drift,) = found(model).values()
    assert drift.dead.tolist() == [True, False, False, True]


def test_without_an_activation_channels_without_scale_or_variance_are_dead() -> None:
    model = model_of()
    model.get_layer("first").gamma.assign([1.0, 0.0, 1.0, 1.0])
    x = X.copy()
    x[:, 2] = 7
    (drift,) = found(model, x).values()
    assert drift.dead.tolist() == [False, True, True, False]


def test_an_output_that_goes_somewhere_else_too_is_no_activations_own() -> None:
    inputs = keras.Input((4,))
    y = BatchNormalization(name="norm")(inputs)
    model = keras.Model(inputs, keras.layers.Add()([y, keras.layers.ReLU()(y)]))
    model.get_layer("norm").beta.assign([-99.0] * 4)
    assert not found(model)["norm"].dead.any()


def test_what_a_mask_leaves_out_does_not_count() -> None:
    inputs = keras.Input((3, 2))
    model = keras.Model(inputs, BatchNormalization(name="norm")(keras.layers.Masking()(inputs)))
    x = RNG.normal(size=(64, 3, 2)).astype("float32") + 5
    x[..., 1] = 5  # dead, but for the padding
    x[:, 2] = 0
    (drift,) = found(model, x).values()
    assert drift.dead.tolist() == [False, True]
    kept = x[:, :2].reshape(-1, 2).astype("float64")
    by_hand = np.sqrt(np.mean(kept.mean(0) ** 2 / (1 + 1e-3)))
    assert drift.drift == pytest.approx(by_hand, rel=1e-6)


def test_the_logs_have_every_layer_and_the_totals_for_whoever_comes_behind(tmp_path: Path) -> None:
    model = model_of(keras.layers.ReLU(), BatchNormalization(name="second", center=False))
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model, MonitorStatistics((X, Y)), log, epochs=2, validation_data=(X, Y))
    names = {f"net/{layer}/{what}" for layer in ("first", "second") for what in ("drift", "variance_ratio", "dead")}
    assert set(history) == names | {"loss", "val_loss", "drift", "dead_channels"}
    assert history["drift"] == [
        max(pair) for pair in zip(history["net/first/drift"], history["net/second/drift"], strict=True)
    ]
    with (tmp_path / "log.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [float(row["drift"]) for row in rows] == pytest.approx(history["drift"])


def test_early_stopping_watches_it_and_totals_alone_are_enough() -> None:
    stop = keras.callbacks.EarlyStopping(monitor="drift", mode="max", patience=1)  # drift falls in every epoch
    history = fit(model_of(), MonitorStatistics(X, per_layer=False), stop, epochs=9)
    assert set(history) == {"loss", "drift", "dead_channels"}
    assert len(history["drift"]) == 2
    assert history["drift"][1] < history["drift"][0]


def test_before_recalibration_it_sees_the_averages_and_behind_what_came_of_them() -> None:
    before = fit(model_of(), MonitorStatistics(X), RecalibrateStatistics(X), validation_data=(X, Y))
    behind = fit(model_of(), RecalibrateStatistics(X), MonitorStatistics(X), validation_data=(X, Y))
    assert before["drift"][0] > 0.5
    assert behind["drift"][0] < 1e-5


def test_training_is_the_same_with_and_without() -> None:
    weights = []
    for callbacks in ([], [MonitorStatistics(X)]):
        keras.utils.set_random_seed(1)
        model = model_of(keras.layers.Dropout(0.3))
        model.compile(keras.optimizers.Adam(1e-2), "mse", steps_per_execution=1 if BACKEND == "torch" else 2)
        fit(model, *callbacks, epochs=2, batch_size=24, validation_split=0.25)
        weights.append([values(variable) for variable in (*model.weights, *model.optimizer.variables)])
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's callback writes with TensorFlow's summaries")
def test_tensorboard_behind_it_writes_it(tmp_path: Path) -> None:
    from tensorflow.compat.v1.train import summary_iterator

    history = fit(model_of(), MonitorStatistics(X), keras.callbacks.TensorBoard(tmp_path), epochs=2)
    (file,) = (tmp_path / "train").glob("events*")
    written: dict[str, list[float]] = {}
    for event in summary_iterator(str(file)):
        for value in event.summary.value:
            if value.tag.startswith("epoch_"):
                number = np.frombuffer(value.tensor.tensor_content, "float32")
                written.setdefault(value.tag, []).extend(number.tolist())
    assert written["epoch_drift"] == pytest.approx(history["drift"])
    assert written["epoch_net/first/dead"] == [0.0, 0.0]


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(NormwiseError) as error:
        MonitorStatistics(batch for batch in [X])
    assert str(error.value) == (
        "MonitorStatistics goes through its data in every epoch, received generator, which can be gone through once: "
        "pass arrays, a data set, or list(...) of it."
    )
    with pytest.raises(NormwiseError) as error:
        MonitorStatistics(X, flat_below=-1)
    assert str(error.value) == "flat_below is a range of outputs, 0 or more, received -1: pass 1e-6."
    with pytest.raises(NormwiseError) as error:
        fit(model_of(), MonitorStatistics([]))
    assert str(error.value) == (
        "MonitorStatistics received no batches, so there is nothing to compare with: pass data."
    )
    with pytest.raises(UnknownName, match="'frist'"):
        fit(model_of(), MonitorStatistics(X, layers=["frist"]))


def test_nothing_to_log_is_said() -> None:
    said = "^MonitorStatistics has nothing to log: no batch norm of the model got finite numbers from the data\\.$"
    with pytest.warns(UserWarning, match=said):
        history = fit(model_of(), MonitorStatistics(X * np.nan))
    assert [*history] == ["loss"]
