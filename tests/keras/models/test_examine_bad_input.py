"""Input that ``examine`` cannot work with in Keras: one sentence on each backend, and the model is as before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from normwise.doctor import Diagnosis, examine
from normwise.errors import CallFailed, NormwiseError
from tests.keras.calls import values
from tests.keras.recalibration_models import everything

X = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
TAKES = (
    "give the model arrays of the shape and dtype that it needs (it computes in float32): change the batches, or pass "
    "forward_fn to normwise.examine, a function of the model and a batch."
)


def net() -> Any:
    """One norm with the statistics of the data."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, use_bias=False, name="first"),
            keras.layers.BatchNormalization(name="bn"),
            keras.layers.ReLU(),
            keras.layers.Dense(2),
        ],
        name="m",
    )
    hidden = X @ values(model.get_layer("first").kernel)
    model.get_layer("bn").moving_mean.assign(hidden.mean(0))
    model.get_layer("bn").moving_variance.assign(hidden.var(0))
    return model


def images() -> Any:
    layers = [keras.layers.Conv2D(4, 3, name="conv"), keras.layers.BatchNormalization(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


class Own(keras.Model):
    """A model of the user's own class."""

    def __init__(self) -> None:
        super().__init__(name="own")
        self.dense, self.norm = keras.layers.Dense(4, name="dense"), keras.layers.BatchNormalization(name="bn")

    def call(self, x: Any) -> Any:
        return self.norm(self.dense(x))


def own() -> Any:
    model = Own()
    model(X[:2])
    return model


def refused(model: Any, batches: Any, **given: Any) -> NormwiseError:
    """The error of examining it, after which it is as before."""
    before = everything(model)
    with pytest.raises(NormwiseError) as caught:
        examine(model, batches, **given)
    assert everything(model) == before
    assert "\n" not in str(caught.value)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    return caught.value


def ran(model: Any, batches: Any, **given: Any) -> Diagnosis:
    """The diagnosis of it, after which it is as before."""
    before = everything(model)
    diagnosis = examine(model, batches, **given)
    assert everything(model) == before
    return diagnosis


@pytest.mark.parametrize(
    ("made", "batches", "what", "layer", "said"),
    [
        (net, X[:, :5], "batch 1, a float32 array of shape (32, 5)", "'first'", "value 8, but received input with"),
        (own, X[:, :5], "batch 1, a float32 array of shape (32, 5)", "'dense'", "value 8, but received input with"),
        (own, [X, X[:4, :5]], "batch 2, a float32 array of shape (4, 5)", "'dense'", "input with shape (4, 5)"),
        (
            own, (X[:, :5], Y), "batch 1, a tuple (a float32 array of shape (32, 5), an int64 array of shape (32,))",
            "'dense'", "received input with shape (32, 5); Own was called with a ndarray",
        ),
        (
            images, np.zeros((4, 3, 8, 8), "float32"), "batch 1, a float32 array of shape (4, 3, 8, 8)", "'conv'",
            "have value 3, but received input with shape (4, 3, 8, 8)",
        ),
    ],
    ids=["width", "own class", "second", "labelled", "channels first"],
)  # fmt: skip
def test_a_batch_that_the_model_does_not_take(made: Any, batches: Any, what: str, layer: str, said: str) -> None:
    error = refused(made(), batches)
    assert str(error).startswith(f"examine could not run the model on {what}: ValueError in layer {layer}: Input 0 ")
    assert said in str(error)
    assert str(error).endswith(f"; {TAKES}")
    assert isinstance(error, CallFailed)
    assert isinstance(error.__cause__, ValueError)


def test_numbers_of_a_batch_are_not_written_out() -> None:
    error = str(refused(images(), X))
    assert "Invalid input shape for input " in error
    assert "[...]" in error
    assert len(error) < 600


def test_a_batch_that_is_a_dict_without_the_names_of_the_inputs() -> None:
    error = str(refused(net(), [{"x": X}]))
    assert error.startswith(
        "examine could not run the model on batch 1, a dict ('x': a float32 array of shape (128, 8)): ValueError in "
    )
    assert error.endswith(
        f"The structure of `inputs` doesn't match the expected structure; Sequential was called with a dict; {TAKES}"
    )


def raising() -> Iterator[Any]:
    yield X
    raise OSError("the disk is gone")


def test_batches_that_raise_or_are_none_or_have_no_samples() -> None:
    error = str(refused(net(), raising()))
    assert error.startswith("examine could not read batch 2: OSError in line ")
    assert error.endswith("of test_examine_bad_input.py: the disk is gone; pass data of which every batch can be read.")
    nothing: list[Any] = [[], iter([]), X[:0]]
    for empty in nothing:
        assert str(refused(net(), empty)) == (
            "examine received no batches, so there is nothing to measure: pass data; an iterator that was gone through "
            "before is empty."
        )
    assert str(refused(net(), [X, X[:0]])) == (
        "examine received a batch without samples (batch 2, a float32 array of shape (0, 8)): leave it out."
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_batch_of_values_that_are_not_finite(value: float) -> None:
    x = X.copy()
    x[70, 1] = value
    assert str(refused(net(), x)) == (
        "examine received NaN or infinite values in batch 3, a float32 array of shape (32, 8), which come into layer "
        "'m/bn': leave such samples out, or replace the values."
    )


def test_weights_that_are_not_finite() -> None:
    model = net()
    model.get_layer("first").kernel.assign(np.full((8, 16), np.nan))
    assert str(refused(model, X)) == (
        "examine needs a model whose weights are finite, received one with NaN or infinite values in 'm/first/kernel': "
        "load weights of before that."
    )


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float64"])
def test_batches_of_another_dtype_are_taken_as_keras_takes_them(dtype: str) -> None:
    assert ran(net(), X.astype(dtype), only=["wrong_axis"]).facts.samples == 128


def test_a_generator_gives_what_a_list_gives() -> None:
    parts = [X[start : start + 32] for start in range(0, 128, 32)]
    assert ran(net(), iter(parts)).to_json() == ran(net(), parts).to_json()


def failing(*_: Any) -> Any:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize("name", ["loss", "metric"])
def test_a_loss_or_metric_that_fails(name: str) -> None:
    error = refused(net(), (X, Y), **{name: failing})
    assert str(error).startswith(f"{name} failed on batch 1: ZeroDivisionError in line ")
    assert str(error).endswith("of shape (32,): pass a function of these two that returns one number.")
    assert "of test_examine_bad_input.py: boom; it received outputs that are a float32 " in str(error)
    for value, what in ((None, "None"), ("good", "a str")):
        error = refused(net(), (X, Y), **{name: lambda *_, value=value: value})
        assert str(error) == f"{name} must return one number for a batch, received {what}: return one number."
    error = refused(net(), (X, Y), **{name: 3})
    what = f"{name} must be a function of outputs and targets, received 3"
    assert str(error) == f"{what}: pass the function itself."
    error = refused(net(), (X, Y), **{name: "categorical_crossentropie"})
    assert str(error).startswith(
        f"unknown {name} of Keras 'categorical_crossentropie': did you mean 'categorical_crosse"
    )


def test_a_metric_may_return_a_tensor_and_a_loss_one_number_for_each_sample() -> None:
    def accuracy(outputs: Any, targets: Any) -> Any:
        return ops.mean(ops.cast(ops.equal(ops.argmax(outputs, 1), ops.cast(targets, "int32")), "float32"))

    def loss(outputs: Any, targets: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True)

    stored = ran(net(), (X, Y), metric=accuracy, loss=loss).facts.stored
    assert stored is not None
    assert 0 < stored.metric < 1  # type: ignore[operator]  # it was given
    assert stored.loss == pytest.approx(np.mean(values(loss(net()(X), Y))), rel=1e-4)


def test_a_step_that_raises_or_cannot_be_done() -> None:
    what = "a tuple (a float32 array of shape (32, 8), an int64 array of shape (32,))"
    error = str(refused(net(), (X, Y), train_step=lambda model, batch: model.train_on_batch(*batch)))
    assert error.startswith(f"train_step failed on batch 1, {what}: ValueError in line ")
    assert error.endswith(
        "You must call `compile()` before using the model; pass a function of the model and a batch that does one "
        "step of "
        "the optimizer as your loop does it."
    )


def test_a_source_that_is_no_model_or_takes_other_batches() -> None:
    assert str(refused(net(), X, source_model="m.keras")) == (
        "examine, for source_model, needs a Keras model, as the model is, received the string 'm.keras': build the "
        "model, "
        "load its weights, and pass it."
    )
    error = str(refused(net(), X, source_model=images()))
    assert error.startswith(
        "examine could not run source_model on the batches that the model takes, the first of which is a float32 "
        "array of "
        "shape (32, 8): ValueError in "
    )
