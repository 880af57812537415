"""``normwise recalibrate`` and ``adapt`` of a ``.keras`` file: a whole model in, a whole model out."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome

import normwise.keras as nk
from normwise.cli import main
from normwise.loading import imported
from tests.keras.calls import values

TAKEN = (
    "normwise: the array 'images' of 'rows.npz' is taken because it is the first, and 'labels' left out: to take "
    "another, give it the name of an input of the model ('pixels').\n"
)
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
    with zipfile.ZipFile("hollow.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "")
    whole = bytearray(Path("net.keras").read_bytes())
    Path("short.keras").write_bytes(whole[:-100])
    flipped = whole.index(b"\x89HDF")
    whole[flipped : flipped + 200] = bytes(200)
    Path("flipped.keras").write_bytes(whole)
    Path("pointer.keras").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    Path("items.py").write_text(
        "import numpy\n\ndef items():\n    return [{'image': numpy.ones((4, 3)), 'label': 0}]\n", encoding="utf-8"
    )
    np.savez("narrow.npz", np.zeros((4, 2), "float32"))
    np.savez("rows.npz", images=X, labels=np.zeros(70))
    np.savez("named.npz", labels=np.zeros(70), pixels=X)
    Path("data.py").write_text(
        "import numpy\n\ndef batches():\n    return [(numpy.ones((4, 3)), 0)]\n\ndef nothing():\n    pass\n\n"
        "def needs(rows):\n    pass\n",
        encoding="utf-8",
    )


@pytest.mark.parametrize("data", ["rows.npz", "named.npz"])
def test_the_statistics_of_the_data_are_in_the_file_and_all_else_is_as_it_was(data: str) -> None:
    done = call("recalibrate", "net.keras", "--data", data, "--out", "new.keras")
    assert (done.exit_code, done.stderr) == (0, TAKEN if data == "rows.npz" else "")
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
    (
        {"model": "unsafe.keras"},
        "'unsafe.keras' holds Python code, as a Lambda layer does, and code in it is not run: put a layer of a class "
        "of your own, or an operation of keras.ops, in its place and save the model again.\n",
    ),
    ({"model": "short.keras"}, "'short.keras' is no .keras file, or a damaged one: write it with model.save().\n"),
    ({"model": "flipped.keras"}, "loading flipped.keras failed: "),
    ({"model": "pointer.keras"}, "'pointer.keras' is a Git LFS pointer and not the file itself: fetch that with "),
    ({"data": "items.py:items"}, "net.keras on items.py:items failed: "),
    (
        {"model": "plain.keras", "data": "data.py:batches"},
        "plain.keras: nothing recalibrated: the model has no batch norm; nothing was written.",
    ),
    ({"model": "hollow.keras"}, "loading hollow.keras failed: "),
    ({"data": "narrow.npz"}, "net.keras on narrow.npz failed: "),
    ({"data": "data.py:nothing"}, "net.keras on data.py:nothing failed: "),
    ({"data": "data.py:needs"}, "data.py:needs needs the argument 'rows', and normwise calls it without arguments: "),
]


@pytest.mark.parametrize("case", range(len(MISTAKES)))
def test_every_mistake_is_one_sentence_and_nothing_is_written(case: int) -> None:
    wrong, sentence = MISTAKES[case]
    given = {"model": "net.keras", "data": "named.npz", "out": "new.keras", **wrong}
    model = given.pop("model")
    done = call("recalibrate", model, *(part for name, value in given.items() for part in (f"--{name}", value)))
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith(f"normwise: {sentence}")
    assert "unsafe_deserialization" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(".\n")
    assert not Path("new.keras").exists()


def test_a_model_may_be_replaced_by_what_is_made_of_it() -> None:
    done = call("recalibrate", "net.keras", "--data", "rows.npz", "--out", "net.keras")
    assert (done.exit_code, done.stderr) == (0, TAKEN)
    moved = values(keras.saving.load_model("net.keras").get_layer("bn").moving_mean)
    np.testing.assert_allclose(moved, X.mean(0), rtol=1e-5)


def test_a_tolerance_that_is_not_reached_is_said() -> None:
    settings = ("--data", "rows.npz", "--out", "new.keras", "--tolerance", "0.0001", "--batch-size", "10", "--json")
    found = json.loads(call("recalibrate", "net.keras", *settings).stdout)
    assert (found["tolerance"], found["tolerance_reached"]) == (0.0001, False)
    assert 0.0001 < found["standard_error"] < 1


def test_standard_error_holds_no_news_of_the_backend() -> None:
    line = [sys.executable, "-m", "normwise", "recalibrate", "net.keras", "--data", "named.npz", "--out", "new.keras"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"\nThe model: {Path('new.keras').resolve()}\n")


@pytest.mark.parametrize(
    ("dtype", "more", "factor", "words"),
    [
        ("float64", (), 1, "cast from float64 to float32."),
        (
            "float64",
            ("--scale", "1/4"),
            0.25,
            "cast from float64 to float32 and multiplied by 0.25: its values are from ",
        ),
        (
            "uint8",
            (),
            1,
            "cast from uint8 to float32, and its values, from 0 to 8, are not scaled: give --scale 1/255 ",
        ),
        (
            "uint8",
            ("--scale", "1/255"),
            1 / 255,
            "cast from uint8 to float32 and multiplied by 0.00392157: its values ",
        ),
    ],
)
def test_values_are_cast_to_the_dtype_of_the_input(
    dtype: str, more: tuple[str, ...], factor: float, words: str
) -> None:
    rows = np.clip(X, 0, 9.9).astype(dtype)
    rows[0] = 0
    np.savez("cast.npz", pixels=rows)
    done = call("recalibrate", "net.keras", "--data", "cast.npz", "--out", "new.keras", *more)
    assert done.exit_code == 0
    assert done.stderr.startswith(f"normwise: the array 'pixels' of 'cast.npz' is {words}")
    assert done.stderr.count("\n") == 1
    moved = values(keras.saving.load_model("new.keras").get_layer("bn").moving_mean)
    np.testing.assert_allclose(moved, rows.astype("float64").mean(0) * factor, rtol=1e-5)


OWN = """import keras

class Doubling(keras.layers.Layer):
    def call(self, x):
        return 2 * x

@keras.saving.register_keras_serializable("nets")
class Net(keras.Model):
    def __init__(self, **named):
        super().__init__(**named)
        self.norm, self.doubling = keras.layers.BatchNormalization(name="bn"), Doubling()

    def call(self, x, training=None):
        return self.doubling(self.norm(x, training=training))
"""


def test_a_model_with_classes_of_the_users_own_is_loaded_with_their_file() -> None:
    Path("own_nets.py").write_text(OWN, encoding="utf-8")
    own = imported("own_nets.py")
    keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(), own.Doubling()]).save("layer.keras")
    net = own.Net()
    net(X)
    net.save("own.keras")
    Path("others.py").write_text("", encoding="utf-8")
    for name, lacking in (("layer", "Doubling"), ("own", "Net")):
        for mine in [each for each in keras.saving.get_custom_objects() if each.endswith(("Doubling", "nets>Net"))]:
            del keras.saving.get_custom_objects()[mine]
        sys.modules.pop("own_nets", None)  # as in a new process
        command = ["recalibrate", f"{name}.keras", "--data", "rows.npz", "--out", "new.keras"]
        without = call(*command)
        assert (without.exit_code, without.stderr) == (
            3,
            f"normwise: '{name}.keras' needs '{lacking}', which is not in Keras: name the Python file that defines it "
            "with --classes.\n",
        )
        wrong = call(*command, "--classes", "others.py")
        assert f"needs '{lacking}', which is neither in Keras nor in others.py: " in wrong.stderr
        assert not Path("new.keras").exists()
        assert call(*command, "--classes", "own_nets.py").exit_code == 0
        written = keras.saving.load_model("new.keras", vars(own))
        assert np.allclose(values(written.layers[0].moving_mean), X.mean(0), atol=1e-5)
        Path("new.keras").unlink()


def test_a_file_of_classes_that_is_not_there_is_named() -> None:
    done = call("doctor", "net.keras", "--data", "rows.npz", "--classes", "netz.py")
    sentence = "normwise: there is no file 'netz.py': give the path of the file with the classes in it.\n"
    assert (done.exit_code, done.stderr) == (2, sentence)
