"""Examine: when it examines, what it warns of, and that training is as without it, on each backend."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import normwise.callbacks.keras as callbacks
from normwise.callbacks.keras import Examine
from normwise.errors import NormwiseError, UnhealthyModel, UnknownName
from tests.keras.calls import values

RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.normal(size=(96, 4))).astype("float32")
Y = X[:, :1] - X[:, 1:2]


def model_of(momentum: float = 0.6) -> Any:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(momentum=momentum, name="first"),
            keras.layers.Dense(1),
        ],
        name="model",
    )
    model.compile(keras.optimizers.SGD(1e-2), "mse", metrics=["mae"])
    return model


def fit(model: Any, *callbacks: Any, **settings: Any) -> Any:
    return model.fit(X, Y, batch_size=16, verbose=0, callbacks=[*callbacks], **settings).history


def test_a_healthy_model_gives_no_warning_and_zeros() -> None:
    examine = Examine((X, Y))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnhealthyModel)
        history = fit(model_of(), examine, epochs=2)
    assert history["normalization_errors"] == history["normalization_warnings"] == [0.0, 0.0]
    assert examine.diagnosis is not None
    assert examine.diagnosis.healthy


@pytest.mark.parametrize("validation", [None, (X, Y)])
def test_it_warns_with_the_diagnosis_every_so_many_epochs_and_at_the_end(validation: Any, tmp_path: Path) -> None:
    examine = Examine(X, every=2)
    log = tmp_path / "log.csv"
    with pytest.warns(UnhealthyModel) as caught:
        fit(model_of(0.9999), examine, keras.callbacks.CSVLogger(log), epochs=3, validation_data=validation)
    heard = [str(each.message) for each in caught if each.category is UnhealthyModel]
    assert [message.splitlines()[0] for message in heard] == [
        f"after epoch {epoch}: 1 error (1 normalization layer, 96 samples)" for epoch in (2, 3)
    ]
    assert heard[1] == f"after epoch 3: {examine.diagnosis}"
    with log.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["normalization_errors"] for row in rows] == ["nan", "1.0", "1.0"]


def test_training_is_as_without_it() -> None:
    found = []
    for examine in ([], [Examine((X, Y), loss=lambda y, t: keras.ops.mean((y - t) ** 2))]):
        keras.utils.set_random_seed(1)
        model = model_of()
        history = fit(model, *examine, epochs=3, validation_data=(X, Y))
        everything = [values(v).tobytes() for v in (*model.variables, *model.optimizer.variables)]
        found.append((history["loss"], history["val_mae"], everything))
    assert found[0] == found[1]


def test_it_sees_what_stands_before_it_in_the_list() -> None:
    recalibrate = callbacks.RecalibrateStatistics(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnhealthyModel)
        history = fit(model_of(0.9999), recalibrate, Examine(X))
    assert history["normalization_errors"] == [0.0]
    assert issubclass(callbacks.MonitorStatistics, keras.callbacks.Callback)


def test_what_would_fail_later_is_refused_at_once() -> None:
    for every in (0, 1.5, True):
        with pytest.raises(NormwiseError) as caught:
            Examine(X, every=every)  # type: ignore[arg-type]  # that is the point
        assert str(caught.value) == (
            f"every is a number of epochs, 1 or more, received {every!r}: pass 1 for every epoch."
        )
    with pytest.raises(UnknownName, match=r"^unknown check 'stale_statistics'"):
        Examine(X, allow=["stale_statistics"])
    with pytest.raises(NormwiseError) as caught:
        Examine(X, train_step=print)
    assert str(caught.value) == (
        "Examine looks at a model while it trains, received a train_step: pass that to normwise.doctor.examine, before "
        "or after the training."
    )
    with pytest.raises(NormwiseError, match=r"^Examine goes through its data in every epoch, received generator"):
        Examine(x for x in X)


@pytest.mark.parametrize(
    ("data", "settings"), [(None, {}), (X[:, :3], {}), (X, {"at_mots": 1}), ((X, Y), {"loss": "msee"})]
)
def test_a_mistake_costs_no_epoch(data: Any, settings: Any) -> None:
    model = model_of()
    before = [values(weight) for weight in model.weights]
    with pytest.raises((NormwiseError, TypeError, ValueError)):
        fit(model, Examine(data, every=9, **settings), epochs=9)
    for weight, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(values(weight), kept)
