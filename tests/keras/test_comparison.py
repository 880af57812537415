"""`normwise lab compare` on Keras models: what takes the places of batch norms, where they stand, what is examined."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from normwise.errors import NormwiseError
from normwise.lab.comparison import compare, finals
from normwise.lab.comparison.arms import AS_BUILT, NORMALIZERS, Arm, Trial
from normwise.lab.comparison.keras_layers import layer_for, replace
from normwise.lab.comparison.keras_trainer import KerasTrainer
from normwise.lab.comparison.keras_where import choices, moves, places
from normwise.lab.comparison.rows import Rows


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Real digits."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return Rows((data.images[:600, ..., None] / 16).astype(np.float32), data.target[:600].astype(np.int64))


def net() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, strides=2, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.Flatten(),
            layers.Dense(10, name="out"),
        ],
        name="net",
    )


def inside() -> Any:
    """Functional, the activation inside the layer in front, another model in it."""
    inner = keras.Sequential([keras.Input((8,)), layers.BatchNormalization(name="deep"), layers.Activation("tanh")])
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Dense(8, activation="elu", name="first")(layers.Flatten()(x))
    x = inner(layers.BatchNormalization(name="bn", scale=False)(x))
    return keras.Model(inputs, layers.Dense(10, name="out")(x))


class Subclassed(keras.Model):
    """A model that says nothing of its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.first, self.bn = layers.Flatten(), layers.Dense(8), layers.BatchNormalization()
        self.more = [layers.BatchNormalization(), layers.Dense(10)]

    def call(self, x: Any, training: bool | None = None) -> Any:
        """One after the other."""
        x = self.bn(self.first(self.flat(x)), training=training)
        for layer in self.more:
            x = layer(ops.relu(x))
        return x


def numbers(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.fixture(scope="module")
def trainer(rows: Rows) -> KerasTrainer:
    """The trainer of the first network."""
    return KerasTrainer(net, rows, "")


def test_there_is_a_layer_for_every_name() -> None:
    norm = layers.BatchNormalization(epsilon=0.25, momentum=0.5, center=False)
    norm.build((None, 4, 16))
    made = {name: layer_for(norm, name, 12) for name in NORMALIZERS}
    assert made.pop("none") is None
    assert {layer.epsilon for layer in made.values()} == {0.25}
    assert not any(layer.center for layer in made.values())
    assert {name: made[name].groups for name in ("group", "layer", "instance")} == {
        "group": 2,
        "layer": 1,
        "instance": 16,
    }
    assert {made[name].momentum for name in ("batch", "ghost", "renorm")} == {0.5}
    assert made["ghost"].sizes.virtual_batch_size == 6
    assert made["renorm"].renorm


def test_what_takes_the_place_learns_and_says_on_which_backend(trainer: KerasTrainer, backend: str) -> None:
    found = trainer.train(Trial(Arm("renorm", AS_BUILT, 0.1, 32), 20, 0, final=True))
    assert max(score or 0 for score in found.validation.values()) > 25  # of 10 classes
    assert [*found.test] == ["running", "recalibrated"]
    assert trainer.framework == f"keras {keras.__version__} on {backend}"


def test_a_trial_depends_on_its_seed_alone_and_the_rest_begins_alike(trainer: KerasTrainer) -> None:
    trial = Trial(Arm("group", AS_BUILT, 0.1, 32), 5, 3)
    first = trainer.train(trial)
    keras.utils.set_random_seed(99)
    assert trainer.train(trial).validation == first.validation
    keras.utils.set_random_seed(0)
    plain = net()
    keras.utils.set_random_seed(0)
    other = net()
    slots = replace(other, "group", 8)
    assert np.array_equal(plain.get_layer("conv").get_weights()[0], other.get_layer("conv").get_weights()[0])
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 3, 8)).astype(np.float32)
    (slot,) = slots.values()
    y = numbers(other.get_layer("bn")(x))
    assert np.allclose(y, numbers(slot.layer(x)))
    assert abs(y.reshape(4, -1).mean(axis=1)).max() < 1e-4
    trained = {weight.path for weight in other.trainable_variables}
    assert {weight.path for weight in slot.layer.trainable_variables} <= trained
    assert not {weight.path for weight in (other.get_layer("bn").gamma, other.get_layer("bn").beta)} & trained


@pytest.mark.parametrize("make", [inside, Subclassed])
def test_models_of_every_kind_are_reached(make: Callable[[], Any], rows: Rows) -> None:
    trainer = KerasTrainer(make, rows, "")
    if make is Subclassed:
        assert trainer.where == (AS_BUILT,)
        assert re.fullmatch(
            r"Before or after the activation is not compared: \S+: it is called more than once, or by a subclassed "
            r"model or a wrapper; \S+: it is called more than once, or by a subclassed model or a wrapper\.",
            trainer.remarks[0],
        )
    model = trainer._built(0)
    assert len(replace(model, "none", 8)) == 2
    before = numbers(model(rows.inputs[:4], training=True))
    assert np.array_equal(before, numbers(model(rows.inputs[:4], training=False)))  # no batch norm is left


def test_the_layer_behind_a_batch_norm_is_moved_before_it(rows: Rows) -> None:
    model = net()
    assert {name: place.where for name, place in places(model).items()} == {"net/bn": "before"}
    assert choices(places(model)) == (AS_BUILT, "after")
    found = moves(model, "after")
    slots = replace(model, "batch", 8)
    for name, move in found:
        move(slots[name])
    x = rows.inputs[:8]
    norm = slots["net/bn"].layer
    hidden = norm(ops.relu(model.get_layer("conv")(x)), training=True)
    expected = model.get_layer("out")(ops.reshape(hidden, (8, -1)))
    assert np.allclose(numbers(model(x, training=True)), numbers(expected), atol=1e-5)


def test_an_activation_inside_the_layer_in_front_is_moved_behind(rows: Rows) -> None:
    model = inside()
    found = {name.split("/")[-1]: place for name, place in places(model).items()}
    assert {name: place.where for name, place in found.items()} == {"bn": "after", "deep": "before"}
    assert choices(places(model)) == (AS_BUILT, "after", "before")
    x = rows.inputs[:8]
    first = model.get_layer("first")
    linear = ops.reshape(x, (8, -1)) @ ops.convert_to_tensor(first.kernel) + ops.convert_to_tensor(first.bias)
    todo = moves(model, "before")
    slots = replace(model, "layer", 8)
    for name, move in todo:
        move(slots[name])
    (moved,) = [slot for name, slot in slots.items() if name.endswith("bn")]
    (deep,) = [slot for name, slot in slots.items() if name.endswith("deep")]
    hidden = ops.tanh(deep.layer(ops.elu(moved.layer(linear))))
    expected = numbers(model.get_layer("out")(hidden))
    assert np.allclose(numbers(model(x)), expected, atol=1e-4)


def test_softmax_is_no_activation_that_could_change_sides() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="bn"), layers.Activation("softmax")])
    (place,) = places(model).values()
    assert (place.where, place.why) == (None, "no activation stands right beside it")


def test_every_inference_statistics_is_examined_on_the_same_weights(rows: Rows) -> None:
    """Keras's momentum of 0.99 is too slow for so few steps; what is gathered afterwards does not wait."""
    shifted = Rows(50 + 20 * rows.inputs, rows.targets)
    found = KerasTrainer(net, shifted, "").train(Trial(Arm("batch", AS_BUILT, 0.1, 32), 40, 0, final=True)).validation
    running, recalibrated, batch = (found[way] or 0.0 for way in ("running", "recalibrated", "batch"))
    assert running + 10 < recalibrated
    assert abs(recalibrated - batch) < 15


def dense(last: str | None, outputs: int) -> Callable[[], Any]:
    def make() -> Any:
        body = [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(8), layers.BatchNormalization()]
        return keras.Sequential([*body, layers.Dense(outputs, activation=last)])

    return make


def test_one_output_for_two_classes_is_trained_and_examined_as_such(rows: Rows) -> None:
    odd = Rows(rows.inputs, rows.targets % 2)
    found = KerasTrainer(dense("sigmoid", 1), odd, "").train(Trial(Arm("batch", AS_BUILT, 0.1, 32), 30, 0))
    assert (found.validation["recalibrated"] or 0) > 60


@pytest.mark.parametrize(
    ("last", "outputs", "loss"),
    [
        ("softmax", 10, keras.losses.SparseCategoricalCrossentropy(from_logits=False)),
        (None, 10, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        ("sigmoid", 1, keras.losses.BinaryCrossentropy(from_logits=False)),
        (None, 1, keras.losses.BinaryCrossentropy(from_logits=True)),
    ],
)
def test_the_loss_is_told_by_the_outputs(last: str | None, outputs: int, loss: Any, rows: Rows) -> None:
    few = rows if outputs > 1 else Rows(rows.inputs, rows.targets % 2)
    make = dense(last, outputs)
    found = KerasTrainer(make, few, "")._loss(make())
    assert type(found) is type(loss)
    assert found.get_config()["from_logits"] == loss.get_config()["from_logits"]


def test_a_compiled_model_keeps_its_loss_and_values_have_the_mean_square(rows: Rows) -> None:
    values = Rows(rows.inputs, rows.inputs.mean(axis=(1, 2, 3)))
    trainer = KerasTrainer(dense(None, 1), values, "")
    model = dense(None, 1)()
    assert isinstance(trainer._loss(model), keras.losses.MeanSquaredError)
    model.compile(loss="huber")
    assert trainer._loss(model) == "huber"


def test_what_cannot_be_compared_is_one_sentence(rows: Rows) -> None:
    same = net()
    bad: list[tuple[Callable[[], Any], str]] = [
        (lambda: same, "MODEL must build a new Keras model at each call: it returned the same one twice."),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)]),
            "MODEL has no batch norm whose place another normalization could take: build it with "
            "keras.layers.BatchNormalization where one is to be.",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 1)), layers.Flatten(), layers.BatchNormalization(), layers.Dense(3)]
            ),
            "MODEL must return one value for each class, received outputs of shape (rows, 3) for 10 classes (0 to 9): "
            "give the last layer 10 outputs.",
        ),
    ]
    for make, sentence in bad:
        with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
            KerasTrainer(make, rows, "")
    with pytest.raises(NormwiseError, match=r"^MODEL cannot take the rows: "):
        KerasTrainer(net, Rows(rows.inputs[:, :2], rows.targets), "")
    with pytest.raises(
        NormwiseError, match=r"^MODEL cannot be trained with instance at rate 0\.1, batches of 32: .*leave"
    ):
        KerasTrainer(inside, rows, "").train(Trial(Arm("instance", AS_BUILT, 0.1, 32), 2, 0))


def test_a_subclassed_model_is_trained(rows: Rows) -> None:
    assert KerasTrainer(Subclassed, rows, "").train(Trial(Arm("ghost", AS_BUILT, 0.1, 32), 10, 0)).rank > 0


def test_a_training_that_runs_away_is_no_error(rows: Rows) -> None:
    huge = Rows(rows.inputs * np.float32(1e30), rows.targets)
    found = KerasTrainer(dense(None, 10), huge, "").train(Trial(Arm("none", AS_BUILT, 1e10, 32), 5, 0, final=True))
    assert (found.validation, found.test) == ({"none": None}, {"none": None})


def test_the_whole_comparison_says_which_backend_it_was(
    rows: Rows, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend != "torch":
        pytest.skip("what is above the trainer does not know the backend, and compiling takes a minute")
    monkeypatch.setattr(finals, "FEWEST_SEEDS", 2)
    monkeypatch.setattr(finals, "MOST_SEEDS", 2)
    how: dict[str, Any] = {
        "normalizers": ["batch", "none"],
        "where": False,
        "rates": [0.1],
        "seeds": 2,
        "out": tmp_path,
    }
    with pytest.raises(NormwiseError, match=r"^a budget of 0 s is too small for 2 settings") as caught:
        compare(dense(None, 10), rows, budget=0, **how)
    needed = re.search(r"which need about (\d+) s", str(caught.value))
    assert needed
    found = compare(dense(None, 10), rows, budget=int(needed[1]), **how)
    assert found.framework == f"keras {keras.__version__} on {backend}"
    assert found.best.arm.normalizer == "none"
    assert found.own.statistics in ("running", "recalibrated")
    assert (found.seeds, found.kept) == (2, 2)


def test_the_example_of_the_page_can_be_compared_as_the_page_says() -> None:
    root = Path(__file__).resolve().parents[2]
    example = runpy.run_path(str(root / "examples/compare_keras.py"))
    found = places(example["net"]())
    assert [place.where for place in found.values()] == ["before", "after"]
    inputs, targets = example["rows"]()
    assert example["net"]()(inputs[:2]).shape == (2, 1 + targets.max())


def test_the_lab_is_imported_without_keras() -> None:
    program = "import sys, normwise.lab.comparison; print('keras' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False False\n"


def test_what_can_be_learned_is_told_from_what_cannot(rows: Rows, backend: str) -> None:
    if backend != "torch":
        pytest.skip("scores come to the same on every backend, and compiling takes a minute")
    labels = np.random.default_rng(0).integers(0, 10, len(rows.targets))
    brightness = rows.inputs.mean(axis=(1, 2, 3))
    values = ((brightness - brightness.mean()) / brightness.std()).astype(np.float32)
    arm = Arm("batch", AS_BUILT, 0.05, 32)
    for make, given, learned in (
        (dense("softmax", 10), labels, False),
        (dense("sigmoid", 1), rows.targets % 2, True),
        (dense(None, 1), values, True),
    ):
        examined = Rows(rows.inputs, given)
        trainer = KerasTrainer(make, examined, "")
        outcomes = [trainer.train(Trial(arm, 80, seed, final=True)) for seed in range(3)]
        found = finals.finalist(arm, outcomes, examined.unit, examined.constant_scores())
        assert found.learned is learned
        assert not found.failed
