"""Each row of the table for whoever comes from Keras: the old call and the new one do the same, on every backend."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import normwise
from normwise.keras import BatchNormalization, convert, to_keras

PAGE = (Path(__file__).resolve().parents[2] / "docs/coming_from_keras.md").read_text("utf-8")
TABLE = re.search(r"\| with Keras \| with normwise \|\n\|---\|---\|\n((?:\|.*\n)+)", PAGE)
assert TABLE
ROWS = TABLE[1].splitlines()
X, SKIP = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")


def same(ours: object, theirs: object) -> None:
    np.testing.assert_allclose(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), rtol=1e-5, atol=1e-5)


def network() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(2)])


def plain() -> None:
    same(BatchNormalization()(X, training=True), layers.BatchNormalization()(X, training=True))
    model = network()
    before = model.predict(X, verbose=0)
    assert len(convert(model).layers) == 1
    assert isinstance(model.layers[1], BatchNormalization)
    same(model.predict(X, verbose=0), before)
    assert len(to_keras(model).layers) == 1  # to undo it
    assert type(model.layers[1]) is layers.BatchNormalization
    same(model.predict(X, verbose=0), before)


def activated() -> None:
    theirs = layers.Activation("relu")(layers.BatchNormalization()(X, training=True))
    same(BatchNormalization(activation="relu")(X, training=True), theirs)


def residual() -> None:
    theirs = layers.Activation("relu")(layers.Add()([layers.BatchNormalization()(X, training=True), SKIP]))
    same(BatchNormalization(activation="relu")(X, residual=SKIP, training=True), theirs)


def frozen() -> None:
    model = network()
    assert [*normwise.freeze(model).layers] == [f"{model.name}/{model.layers[1].name}"]
    assert model.layers[1].trainable is False
    normwise.unfreeze(model)
    assert model.layers[1].trainable is True


def loaded(folder: Path) -> None:
    model = network()
    convert(model)
    model.save(folder / "ours.keras")
    program = "import sys, normwise.keras, keras; print(len(keras.models.load_model(sys.argv[1]).layers))"
    command = [sys.executable, "-W", "ignore", "-c", program, str(folder / "ours.keras")]
    assert subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.split() == ["3"]


def synchronized() -> None:
    same(BatchNormalization(synchronized=True)(X, training=True), layers.BatchNormalization()(X, training=True))


def others() -> None:
    for name in ("GroupNormalization", "LayerNormalization", "SpectralNormalization", "Dropout"):
        assert f"`{name}`" in ROWS[-1]
        assert hasattr(layers, name)
        assert not hasattr(normwise.keras, name)


# By the beginning of a row's first cell.
TRIALS: dict[str, Callable[..., None]] = {
    "`keras.layers.BatchNormalization(...)`": plain,
    '`BatchNormalization()` and `Activation("relu")`': activated,
    '`Activation("relu")(Add()(': residual,
    "`trainable = False` on every batch norm": frozen,
    "`keras.models.load_model(path)`": loaded,
    "`BatchNormalization(synchronized=True)`": synchronized,
    "`GroupNormalization`, `LayerNormalization`": others,
}


@pytest.mark.parametrize("row", ROWS)
def test_what_a_row_promises_holds(row: str, tmp_path: Path) -> None:
    (check_row,) = [trial for start, trial in TRIALS.items() if row.startswith(f"| {start}")]
    check_row(*[tmp_path] * (check_row is loaded))


def test_no_trial_is_left_of_a_row_that_is_gone() -> None:
    assert [start for start in TRIALS if not any(row.startswith(f"| {start}") for row in ROWS)] == []
