"""``normwise recalibrate`` and ``adapt`` of a ``.keras`` file: a whole model in, a whole model out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome

import normwise.keras as nk
from normwise.cli import main
from tests.keras.calls import values

X = np.random.default_rng(0).normal(4, 2, (70, 3)).astype("float32")


def call(*arguments: str) -> Outcome:
    return CliRunner().invoke(main, [*arguments], prog_name="normwise")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = keras.Input((3,), name="pixels")
    x = nk.BatchNormalization(name="bn", activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x), name="net")
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)  # or Keras warns that it reads it as new
    model.save("net.keras")
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    plain.save("plain.keras")
    unsafe = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x), keras.layers.BatchNormalization()])
    unsafe.save("unsafe.keras")
    Path("broken.keras").write_bytes(b"no archive")
    np.savez("rows.npz", images=X, labels=np.zeros(70))
    np.savez("named.npz", labels=np.zeros(70), pixels=X)
    Path("data.py").write_text(
        "import numpy\n\ndef batches():\n    return [(numpy.ones((4, 3)), 0)]\n", encoding="utf-8"
    )


@pytest.mark.parametrize("data", ["rows.npz", "named.npz"])
def test_the_statistics_of_the_data_are_in_the_file_and_all_else_is_as_it_was(data: str) -> None:
    done = call("recalibrate", "net.keras", "--data", data, "--out", "new.keras")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("1 of 1 batch norms recalibrated with 70 samples in 2 batches\n  recalibrated  ")
    assert done.stdout.endswith(f"\nThe model: {Path('new.keras').resolve()}\n")
    old, new = (keras.saving.load_model(name) for name in ("net.keras", "new.keras"))
    assert type(new.get_layer("bn")) is nk.BatchNormalization
    np.testing.assert_allclose(values(new.get_layer("bn").moving_mean), X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(values(new.get_layer("bn").moving_variance), X.var(0, ddof=1), rtol=1e-5)
    for was, now in zip(old.trainable_variables, new.trainable_variables, strict=True):
        assert values(was).tobytes() == values(now).tobytes()
    assert isinstance(new.optimizer, keras.optimizers.Adam)
    assert sorted(path.name for path in Path().iterdir() if "new" in path.name) == ["new.keras"]


def test_settings_are_passed_on() -> None:
    settings = ("--estimator", "cumulative", "--batches", "1", "--batch-size", "10", "--upstream", "batch", "--json")
    done = call("recalibrate", "net.keras", "--data", "rows.npz", "--out", "new.keras", *settings)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["samples"], found["batches"]) == (10, 1)
    new = keras.saving.load_model("new.keras")
    np.testing.assert_allclose(values(new.get_layer("bn").moving_mean), X[:10].mean(0), rtol=1e-5)


def test_adapt_with_data_from_a_callable() -> None:
    done = call("adapt", "net.keras", "--data", "data.py:batches", "--out", "new.keras", "--prior", "4")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("1 of 1 batch norms adapted to 4 samples in 1 batch, with a prior of 4\n")
    assert values(keras.saving.load_model("new.keras").get_layer("bn").moving_mean).tolist() == [0.5] * 3


MISTAKES: list[tuple[dict[str, str], str]] = [
    ({"model": "no.keras"}, "there is no file 'no.keras': give the path of the model."),
    ({"model": "broken.keras"}, "loading broken.keras failed: "),
    ({"model": "unsafe.keras"}, "loading unsafe.keras failed: "),
    ({"model": "plain.keras"}, "plain.keras: nothing recalibrated: the model has no batch norm; nothing was written."),
    ({"out": "new.pt"}, "a Keras model is a .keras file, received 'new.pt': give it such a name."),
    ({"out": "no/new.keras"}, "there is no folder 'no' for 'new.keras': make it first."),
    ({"weights": "new.pt"}, "--weights is for PyTorch models, received 'new.pt' with net.keras: leave it out."),
    ({"device": "cpu"}, "--device is for PyTorch models, received 'cpu' with net.keras: leave it out."),
    ({"data": "no.npz"}, "there is no file 'no.npz': give the path of the data."),
    ({"estimator": "poled"}, "unknown estimator 'poled': did you mean 'pooled'? Known: "),
]


@pytest.mark.parametrize("case", range(len(MISTAKES)))
def test_every_mistake_is_one_sentence_and_nothing_is_written(case: int) -> None:
    wrong, sentence = MISTAKES[case]
    given = {"model": "net.keras", "data": "rows.npz", "out": "new.keras", **wrong}
    model = given.pop("model")
    done = call("recalibrate", model, *(part for name, value in given.items() for part in (f"--{name}", value)))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"normwise: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not Path("new.keras").exists()
