"""``fold`` in Keras: a new model that computes the same, and what is left of the batch norms."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

import normwise.keras as nk
from normwise.errors import NormwiseError, UnknownName, UnsuitableModel
from normwise.keras.models.fold import fold
from tests.keras.calls import values
from tests.keras.recalibration_models import MODELS, everything, images
from tests.tolerances import SAFETY

TOLERANCE = SAFETY * float(np.finfo(np.float32).eps) * 4


def trained(model: Any) -> Any:
    """The model with statistics, scales and shifts that are not those at the beginning."""
    rng = np.random.default_rng(3)
    for layer in model._flatten_layers():
        if isinstance(layer, kl.BatchNormalization):
            for variable in layer.weights:
                if variable.name in ("gamma", "moving_variance"):
                    variable.assign(rng.uniform(0.5, 2.0, variable.shape))
                elif variable.name in ("beta", "moving_mean"):
                    variable.assign(rng.normal(size=variable.shape))
    return model


def in_a_row(shape: tuple[int, ...], *row: Any) -> Any:
    return trained(keras.Sequential([keras.Input(shape), *row], name="m"))


def data(*shape: int) -> Any:
    return np.random.default_rng(1).normal(1, 2, (4, *shape)).astype("float32")


def assert_folds(model: Any, x: Any, into: dict[str, str], layers: int = 1) -> Any:
    before, names = everything(model), [layer.name for layer in model.layers]
    report = fold(model, x)
    assert {name: done.into for name, done in report.folded.items()} == into, str(report)
    assert report.output_error <= TOLERANCE * layers
    expected, found = values(model(x)), values(report.model(x))
    assert np.abs(found - expected).max() <= TOLERANCE * layers * np.abs(expected).max()
    assert everything(model) == before
    assert [layer.name for layer in report.model.layers] == names
    assert_saved(report.model, x)
    return report


def assert_saved(model: Any, x: Any) -> None:
    """The model can be written, as `normwise fold` does, and computes the same when it is read again."""
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/folded.keras")
        loaded = keras.saving.load_model(f"{folder}/folded.keras")
    assert np.array_equal(values(loaded(x)), values(model(x)))


FRONT: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "Dense": (lambda: kl.Dense(6, use_bias=False, name="l"), (5, 4)),
    "Conv1D": (lambda: kl.Conv1D(6, 3, padding="same", name="l"), (9, 4)),
    "Conv2D": (lambda: kl.Conv2D(6, 3, groups=2, use_bias=False, name="l"), (6, 7, 4)),
    "Conv3D": (lambda: kl.Conv3D(6, 2, strides=2, name="l"), (4, 4, 5, 4)),
    "Conv1DTranspose": (lambda: kl.Conv1DTranspose(6, 3, strides=2, use_bias=False, name="l"), (9, 4)),
    "Conv2DTranspose": (lambda: kl.Conv2DTranspose(6, 3, padding="same", name="l"), (6, 7, 4)),
    "Conv3DTranspose": (lambda: kl.Conv3DTranspose(6, 2, name="l"), (3, 3, 4, 4)),
    "DepthwiseConv1D": (lambda: kl.DepthwiseConv1D(3, depth_multiplier=2, name="l"), (9, 4)),
    "DepthwiseConv2D": (lambda: kl.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="l"), (6, 7, 4)),
    "SeparableConv1D": (lambda: kl.SeparableConv1D(6, 3, name="l"), (9, 4)),
    "SeparableConv2D": (lambda: kl.SeparableConv2D(6, 3, depth_multiplier=2, use_bias=False, name="l"), (6, 7, 4)),
}


@pytest.mark.parametrize("what", FRONT)
def test_into_the_layer_in_front_and_behind(what: str) -> None:
    make, shape = FRONT[what]
    model = in_a_row(shape, make(), kl.BatchNormalization(name="bn"), kl.ReLU())
    report = assert_folds(model, data(*shape), {"m/bn": "m/l"})
    assert type(report.model.get_layer("bn")) is kl.Identity
    if "Transpose" in what:
        return
    layer = type(make()).from_config({**make().get_config(), **({} if what == "Dense" else {"padding": "valid"})})
    assert_folds(in_a_row(shape, kl.ReLU(), kl.BatchNormalization(name="bn"), layer), data(*shape), {"m/bn": "m/l"})


def test_geometry_behind() -> None:
    x = data(6, 6, 3)
    padded = in_a_row((6, 6, 3), kl.ReLU(), kl.BatchNormalization(name="bn"), kl.Conv2D(4, 3, padding="same", name="l"))
    assert fold(padded).skipped == {
        "m/bn": "no convolution, dense layer or batch norm is in front of it, but a ReLU, and m/l behind it cannot "
        "take it: it pads with zeros, which the shift would move too"
    }
    padded.get_layer("bn").moving_mean.assign(np.zeros(3)), padded.get_layer("bn").beta.assign(np.zeros(3))
    assert_folds(padded, x, {"m/bn": "m/l"})
    one_tap = kl.Conv2DTranspose(4, 1, name="l")
    assert_folds(in_a_row((6, 6, 3), kl.ReLU(), kl.BatchNormalization(name="bn"), one_tap), x, {"m/bn": "m/l"})


@pytest.mark.parametrize("make", [kl.BatchNormalization, nk.BatchNormalization], ids=["keras", "ours"])
def test_a_row_of_batch_norms_and_an_activation(make: Any) -> None:
    model = in_a_row(
        (6, 6, 3),
        kl.Conv2D(4, 3, name="l"),
        make(name="one", center=False),
        kl.Dropout(0.5),
        nk.GhostBatchNormalization(virtual_batch_size=2, name="two"),
        nk.BatchNormalization(activation="gelu", name="three"),
        kl.BatchNormalization(scale=False, name="four"),
        kl.BatchNormalization(name="five"),
    )
    into = {"m/one": "m/l", "m/two": "m/l", "m/three": "m/l", "m/five": "m/four"}
    report = assert_folds(model, data(6, 6, 3), into, 5)
    assert report.folded["m/three"].stays == "gelu"
    assert type(report.model.get_layer("three")) is kl.Activation


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_make(name: str) -> None:
    model = trained(MODELS[name]())
    if name == "subclassed":
        with pytest.raises(UnsuitableModel) as error:
            fold(model)
        assert str(error.value) == (
            "fold needs a functional or sequential model that is built, received a Subclassed, whose calls are no "
            "graph: build it by keras.Model(inputs, outputs), or fold the functional models inside of it one by one."
        )
        return
    report = fold(model, images(8))
    expected = {"functional": (3, 1), "sequential": (2, 0), "in_time": (0, 2)}
    assert (len(report.folded), len(report.skipped)) == expected[name], str(report)
    assert report.output_error <= TOLERANCE * 4
    assert_saved(report.model, images(8))


def graph(build: Callable[[Any], Any]) -> Any:
    inputs = keras.Input((6, 6, 3))
    return trained(keras.Model(inputs, build(inputs), name="m"))


def twice(x: Any) -> Any:
    norm = kl.BatchNormalization(name="bn")
    return norm(norm(kl.Conv2D(3, 1, name="l")(x)))


def used_twice(x: Any) -> Any:
    y = kl.Conv2D(3, 1, name="l")(x)
    return kl.Add()([kl.BatchNormalization(name="bn")(y), y])


class Odd(kl.BatchNormalization):
    """Somebody's own."""


NO_FRONT = "no convolution, dense layer or batch norm is in front of it, but "
LEFT: dict[str, tuple[Callable[[], Any], str]] = {
    "called twice": (lambda: graph(twice), "it is called more than once"),
    "used twice": (
        lambda: graph(used_twice),
        "the output of a Conv2D in front of it is used in more than one place, and what is behind it is an Add",
    ),
    "activation in the layer": (
        lambda: in_a_row((6, 6, 3), kl.Conv2D(3, 1, activation="relu", name="l"), kl.BatchNormalization(name="bn")),
        "m/l in front of it cannot take it: it has an activation between the two",
    ),
    "activation": (
        lambda: in_a_row((6, 6, 3), kl.ReLU(), kl.BatchNormalization(name="bn")),
        f"{NO_FRONT}a ReLU, and nothing is behind it",
    ),
    "first": (
        lambda: in_a_row((6, 6, 3), kl.BatchNormalization(name="bn"), kl.ReLU()),
        f"{NO_FRONT}the input of the model, and what is behind it is a ReLU",
    ),
    "in training": (
        lambda: graph(lambda x: kl.BatchNormalization(name="bn")(kl.Conv2D(3, 1)(x), training=True)),
        "it is called with training=True: it normalizes by the batch",
    ),
    "residual": (
        lambda: graph(lambda x: nk.BatchNormalization(name="bn")(kl.Conv2D(3, 1)(x), residual=x)),
        "it is called with more than its input",
    ),
    "own class": (
        lambda: in_a_row((6, 6, 3), kl.Conv2D(3, 1), Odd(name="bn")),
        "it is an Odd, which may do something else than a batch norm does",
    ),
    "another axis": (
        lambda: in_a_row((6, 3, 3), kl.Dense(3, name="l"), kl.BatchNormalization(axis=2, name="bn")),
        "m/l in front of it cannot take it: its channels are on axis 3 and those of the batch norm on axis 2",
    ),
    "domains": (
        lambda: in_a_row((6, 6, 3), kl.Conv2D(3, 1), nk.PerDomainBatchNormalization(domains=["day"], name="bn")),
        "it keeps statistics for each domain, and one layer would be of one only",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_is_left_and_why(what: str) -> None:
    make, reason = LEFT[what]
    report = fold(make(), layers=["bn"])
    assert report.folded == {}
    assert [*report.skipped.values()] == [reason]


def test_wrong_arguments() -> None:
    model = in_a_row((4,), kl.Dense(3), kl.BatchNormalization(name="bn"))
    cases: list[tuple[type[Exception], Callable[[], Any], str]] = [
        (UnknownName, lambda: fold(model, layers=["norm"]), "unknown batch norm 'norm'; known: m/bn."),
        (
            NormwiseError,
            lambda: fold(model, at_most=2),
            "fold was told how to use batches, and received none: pass batches too.",
        ),
        (
            NormwiseError,
            lambda: fold(model, []),
            "fold received batches with no batch in them: pass at least one, or leave batches out.",
        ),
        (UnsuitableModel, lambda: fold(3), "fold needs a Keras model, received an int: pass the model itself."),
    ]
    for kind, wrong, message in cases:
        with pytest.raises(kind) as error:
            wrong()
        assert str(error.value) == message
