"""``normwise swap`` and ``fold`` of a ``.keras`` file: a whole model in, a whole model out."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Outcome

import normwise.keras as nk
from normwise.cli import main
from normwise.loading import imported
from tests.keras.calls import values

X = np.random.default_rng(0).normal(4, 2, (70, 3)).astype("float32")


def call(*arguments: str) -> Outcome:
    return CliRunner().invoke(main, arguments, prog_name="normwise")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = keras.Input((3,), name="pixels")
    x = nk.BatchNormalization(name="bn", activation="relu")(keras.layers.Dense(4, name="dense")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x), name="net")
    model.get_layer("bn").set_weights([np.full(4, value, "float32") for value in (1.5, 0.5, 0.3, 2.0)])
    model.save("net.keras")
    np.savez("rows.npz", pixels=X)


def answers(path: str) -> np.ndarray:
    found: np.ndarray = values(keras.saving.load_model(path)(X, training=False))
    return found


def test_swap_to_keras_leaves_layers_of_keras_only() -> None:
    done = call("swap", "net.keras", "--to", "keras", "--out", "new.keras")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "1 of 1 normalization layers swapped",
        "  swapped      bn: normwise BatchNormalization -> keras BatchNormalization: relu behind it, as bn_activation",
        f"The model: {Path('new.keras').resolve()}",
    ]
    model = keras.saving.load_model("new.keras")
    assert [type(layer).__module__.partition(".")[0] for layer in model.layers] == ["keras"] * len(model.layers)
    np.testing.assert_allclose(answers("new.keras"), answers("net.keras"), rtol=1e-5, atol=1e-5)


def test_a_file_that_needs_an_import_from_now_on_says_so() -> None:
    call("swap", "net.keras", "--to", "keras", "--out", "plain.keras")
    done = call("swap", "plain.keras", "--to", "normwise", "--out", "new.keras")
    assert done.stdout.splitlines()[-2:] == [
        f"The model: {Path('new.keras').resolve()}",
        "To load it, write `import normwise.keras` before keras.saving.load_model.",
    ]
    again = call("recalibrate", "new.keras", "--data", "rows.npz", "--out", "new.keras")  # whose author knows it
    assert again.stdout.splitlines()[-1] == f"The model: {Path('new.keras').resolve()}"


@pytest.mark.parametrize("file", ["net.keras", "plain.keras"])
def test_fold_leaves_no_batch_norm(file: str) -> None:
    """Of normwise's layer with an activation, which stays, and of Keras's own, in whose place nothing is done."""
    call("swap", "net.keras", "--to", "keras", "--out", "plain.keras")
    done = call("fold", file, "--out", "new.keras", "--data", "rows.npz")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("1 of 1 batch norms folded; largest relative error of an output ")
    layers = keras.saving.load_model("new.keras").layers
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in layers)
    np.testing.assert_allclose(answers("new.keras"), answers("net.keras"), rtol=1e-5, atol=1e-5)


def test_what_changes_nothing_writes_nothing() -> None:
    call("swap", "net.keras", "--to", "keras", "--out", "plain.keras")
    done = call("swap", "plain.keras", "--to", "keras", "--out", "new.keras")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == (
        "normwise: plain.keras: 0 of 1 normalization layers swapped, 1 skipped; layer 'bn' skipped: it is "
        "Keras's own already; nothing was written.\n"
    )
    assert not Path("new.keras").exists()


OWN = """
import keras

class Net(keras.Model):
    def __init__(self, **more):
        super().__init__(**more)
        self.dense, self.bn = keras.layers.Dense(4), LAYER

    def call(self, x, training=False):
        return self.bn(self.dense(x), training=training)

class Block(keras.layers.Layer):
    def __init__(self, **more):
        super().__init__(**more)
        self.bn = LAYER

    def build(self, shape):
        self.bn.build(shape)

    def call(self, x, training=False):
        return self.bn(x, training=training)
"""
MAKES = (
    ", which makes its layers itself when it is loaded, so a file cannot hold other ones: call normwise.swap(model, "
)


@pytest.mark.parametrize("to", ["normwise", "keras"])
@pytest.mark.parametrize("inside", ["Net", "Net in a functional model", "Block"])
def test_a_file_that_could_not_hold_the_new_layers_is_not_written(to: str, inside: str) -> None:
    """A class that makes its layers in its constructor makes the old ones when the file is loaded."""
    layer = "normwise.keras.BatchNormalization()" if to == "keras" else "keras.layers.BatchNormalization()"
    Path("own.py").write_text("import normwise.keras\n" + OWN.replace("LAYER", layer), encoding="utf-8")
    kinds = imported("own.py")
    if inside == "Net":
        model = kinds.Net()
        model(X)
        what = "is a model of a class of its own, Net"
    else:
        part = getattr(kinds, inside.partition(" ")[0])()
        model = keras.Sequential([keras.Input((3,)), part])
        what = f"holds 'part', a {type(part).__name__}, a class of its own"
    model.save("own.keras")
    done = call("swap", "own.keras", "--to", to, "--classes", "own.py", "--out", "new.keras")
    otherwise = "" if inside == "Net" else ", or name the other layers with --layers"
    assert (done.exit_code, done.stdout) == (3, "")
    found = re.sub(r"holds '\w+'", "holds 'part'", done.stderr)  # which Keras numbers again
    assert found == (f"normwise: 'own.keras' {what}{MAKES}to='{to}') in the program, after loading{otherwise}.\n")
    assert not Path("new.keras").exists()
    np.savez("rows.npz", X)  # what changes the statistics only is in the file
    done = call("recalibrate", "own.keras", "--classes", "own.py", "--data", "rows.npz", "--out", "new.keras")
    assert done.exit_code == 0, done.stderr


def test_a_layer_inside_of_another_that_writes_it_is_swapped_in_the_file() -> None:
    keras.Sequential(
        [keras.Input((5, 3)), keras.layers.TimeDistributed(keras.layers.BatchNormalization(name="bn"))]
    ).save("own.keras")
    done = call("swap", "own.keras", "--to", "normwise", "--out", "new.keras")
    assert done.exit_code == 0, done.stderr
    assert type(keras.saving.load_model("new.keras").layers[0].layer) is nk.BatchNormalization


@pytest.mark.parametrize("command", [("fold",), ("swap", "--to", "group")], ids=["fold", "swap"])
def test_a_model_with_a_function_of_its_authors_is_made_again(command: tuple[str, ...]) -> None:
    Path("own.py").write_text("import keras\n\ndef bent(x):\n    return keras.ops.tanh(x) * 3\n", encoding="utf-8")
    bent = imported("own.py").bent
    keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation=bent),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(),
            keras.layers.Activation(bent),
        ]
    ).save("own.keras")
    done = call(*command, "own.keras", "--classes", "own.py", "--out", "new.keras")
    assert done.exit_code == 0, done.stderr
    new = keras.saving.load_model("new.keras", {"bent": bent})
    if command == ("fold",):
        old = keras.saving.load_model("own.keras", {"bent": bent})
        np.testing.assert_allclose(values(new(X)), values(old(X)), rtol=1e-5, atol=1e-5)


def test_a_class_that_makes_its_own_layers_stays_where_others_are_folded() -> None:
    """The layers that it makes have other names in each copy of it, and are no new layers."""
    Path("own.py").write_text(OWN.replace("LAYER", "keras.layers.BatchNormalization()"), encoding="utf-8")
    part = imported("own.py").Net()
    keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name="outer"), part]
    ).save("own.keras")
    for command in (("fold",), ("swap", "--to", "group", "--layers", "outer")):
        done = call(*command, "own.keras", "--classes", "own.py", "--out", "new.keras")
        assert (done.exit_code, done.stdout[:6]) == (0, "1 of 2"), done.stderr
