"""Models that ``swap`` and ``fold`` build once more: whatever a config does not say, and whatever may not be built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from normwise.errors import UnsuitableModel
from normwise.keras import BatchNormalization
from normwise.keras.models.adapt import adapt
from normwise.keras.models.fold import fold
from normwise.keras.models.freeze import freeze, unfreeze
from normwise.keras.models.recalibrate import recalibrate
from normwise.keras.models.swap import swap
from tests.keras.calls import values

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")


def filled(model: Any) -> Any:
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def outputs(model: Any) -> Any:
    return values(model(X, training=False))


def learns(model: Any) -> list[tuple[str, bool]]:
    return [(each.name, each.trainable) for each in model.weights]


def chain(**settings: Any) -> Any:
    norm = BatchNormalization(activation="relu", name="norm", **settings)
    return filled(
        keras.Sequential([keras.Input((6,)), layers.Dense(4, name="dense"), norm, layers.Dense(1, name="last")])
    )


class ResidualFunctional(keras.Model):
    def __init__(self) -> None:
        inputs = keras.Input((6,))
        super().__init__(inputs, layers.BatchNormalization()(layers.Dense(6)(inputs)))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return inputs + super().call(inputs, training=training)


class ResidualSequential(keras.Sequential):
    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return inputs + super().call(inputs, training=training, mask=mask)


class Trained(keras.Model):
    """Only its training is its own, so that its graph says what it computes."""

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


@pytest.mark.parametrize(("to", "made"), [("keras", BatchNormalization), ("normwise", layers.BatchNormalization)])
def test_layers_of_the_same_path_are_all_swapped(to: str, made: Any) -> None:
    def branch(name: str) -> Any:
        inputs = keras.Input((6,))
        settings = {"activation": "relu"} if to == "keras" else {}
        return keras.Model(inputs, made(name="norm", **settings)(layers.Dense(4)(inputs)), name=name)

    inputs = keras.Input((6,))
    model = filled(keras.Model(inputs, layers.Add()([branch("one")(inputs), branch("two")(inputs)])))
    before = outputs(model)
    report = swap(model, to)
    assert [*report.swapped] == ["norm", "norm (2)"]
    assert not any(type(layer) is made for layer in report.model._flatten_layers())
    np.testing.assert_allclose(outputs(report.model), before, rtol=1e-5, atol=1e-5)


def by_hand(model: Any) -> None:
    model.get_layer("dense").bias.trainable = False


def whole(model: Any) -> None:
    model.trainable = False
    model.get_layer("norm").trainable = True


@pytest.mark.parametrize(
    "frozen",
    [
        freeze,
        lambda model: freeze(model, affine=False),
        lambda model: freeze(model, statistics=False),
        by_hand,
        whole,
    ],
    ids=["both", "statistics", "affine", "by_hand", "whole"],
)
def test_the_same_variables_learn_in_a_model_that_is_built_again(frozen: Callable[[Any], Any]) -> None:
    model = chain()
    frozen(model)
    again = swap(model).model
    assert learns(again) == learns(model)
    assert [each.name for each in again.trainable_variables] == [each.name for each in model.trainable_variables]
    np.testing.assert_allclose(values(again(X, training=True)), values(model(X, training=True)), rtol=1e-5, atol=1e-5)
    folded, dense = fold(model).model, model.get_layer("dense")
    assert [each.trainable for each in folded.get_layer("dense").weights] == [each.trainable for each in dense.weights]


@pytest.mark.parametrize("parts", [{}, {"affine": False}, {"statistics": False}])
@pytest.mark.parametrize("to", ["keras", "ghost", "layer"])
def test_unfreeze_knows_what_was_frozen_before_the_swap(parts: Any, to: str) -> None:
    model = chain()
    freeze(model, **parts)
    settings: dict[str, Any] = {"num_splits": 2} if to == "ghost" else {}
    again = swap(model, to, **settings).model
    if to == "layer" and parts == {"affine": False}:
        assert again.get_layer("norm").trainable
    else:
        assert "norm" in str(unfreeze(again).layers)
    assert len(again.trainable_variables) == 6


def test_the_optimizer_keeps_its_state_after_freeze() -> None:
    model = chain()
    model.compile("adam", "mse")
    model.fit(X, X[:, :1], epochs=2, verbose=0)
    freeze(model)
    again = swap(model).model
    for one, other in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(values(one), values(other))
    assert int(again.optimizer.iterations) == 2


def test_lambda_layers_are_built_again() -> None:
    inputs = keras.Input((6,))
    double = layers.Lambda(lambda x: 2 * x, output_shape=(6,))
    model = filled(keras.Model(inputs, BatchNormalization(activation="relu")(double(inputs))))
    np.testing.assert_allclose(outputs(swap(model).model), outputs(model), rtol=1e-5, atol=1e-5)


class Without(keras.layers.Layer):
    """A layer that cannot be made from a config."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def call(self, x: Any) -> Any:
        return self.factor * x


@pytest.mark.parametrize("operation", [swap, fold])
def test_a_layer_without_a_config_is_named(operation: Callable[[Any], Any]) -> None:
    model = keras.Sequential([keras.Input((6,)), Without(2.0), layers.Dense(3), BatchNormalization(activation="relu")])
    with pytest.raises(UnsuitableModel, match=r"the one of 'without\w*', a Without, does not serve .* get_config with"):
        operation(model)


@pytest.mark.parametrize("made", [ResidualFunctional, ResidualSequential])
def test_a_model_whose_class_has_its_own_call_is_not_folded(made: Any) -> None:
    parts = [[layers.Dense(6), layers.BatchNormalization()]] if made is ResidualSequential else []
    own = made(*parts)
    inputs = keras.Input((6,))
    if made is ResidualFunctional:
        own(inputs)
        with pytest.raises(UnsuitableModel, match="whose calls are no graph"):
            fold(own)
        return
    model = filled(keras.Model(inputs, layers.BatchNormalization(name="last")(layers.Dense(3)(own(inputs)))))
    with pytest.raises(UnsuitableModel, match="whose calls are no graph"):
        fold(own)
    report = fold(model, X)
    assert [*report.folded] == ["last"]
    assert report.output_error < 1e-5


def test_a_class_whose_call_is_keras_own_is_folded() -> None:
    inputs = keras.Input((6,))
    model = filled(Trained(inputs, layers.BatchNormalization()(layers.Dense(3)(inputs))))
    report = fold(model, X)
    assert len(report.folded) == 1
    assert report.output_error < 1e-5


@pytest.mark.parametrize(
    "operation",
    [swap, lambda model, **asked: recalibrate(model, X, **asked), lambda model, **asked: adapt(model, X, **asked)],
    ids=["swap", "recalibrate", "adapt"],
)
def test_a_string_is_no_list_of_layers(operation: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"layers must be a list of names, received 'norm': pass \['norm'\]\."):
        operation(chain(), layers="norm")


def with_operations() -> Any:
    """A model with arithmetic, a slice and functions of ``keras.ops`` between its layers, and a mask."""
    inputs = keras.Input((6,))
    y = BatchNormalization(activation="relu", name="norm")(layers.Dense(6)(inputs))
    y = (keras.ops.relu(y) + 2.0 * inputs)[:, :4]
    y = layers.BatchNormalization(name="last")(layers.Dense(3)(y))
    return filled(keras.Model(inputs, keras.ops.concatenate([y, y], axis=1)))


def with_a_mask() -> Any:
    inputs = keras.Input((6,))
    words = layers.Embedding(10, 4, mask_zero=True)(keras.ops.cast(inputs > 0, "int32"))
    norm = BatchNormalization(activation="relu", name="norm")
    return filled(keras.Model(inputs, layers.LSTM(3)(norm(layers.Dense(4)(words)))))


OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "to keras": lambda model: swap(model, to="keras"),
    "to ghost": lambda model: swap(model, to="ghost", num_splits=2),
    "fold": fold,
}


@pytest.mark.parametrize("make", [with_operations, with_a_mask])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_functions_between_layers_stay(operation: str, make: Callable[[], Any]) -> None:
    model = make()
    report = OPERATIONS[operation](model)
    assert report.folded if operation == "fold" else report.swapped
    np.testing.assert_allclose(outputs(report.model), outputs(model), rtol=1e-4, atol=1e-5)


def _threefold(x: Any) -> Any:
    return 3 * keras.ops.tanh(x)


def _named_as_keras_names_one(x: Any) -> Any:
    return -3 * keras.ops.tanh(x)


_named_as_keras_names_one.__name__ = "relu"


class _Halves(keras.initializers.Initializer):
    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
        return keras.ops.full(shape, 0.5, dtype)

    def get_config(self) -> dict[str, Any]:
        return {}


def _rebuilt_by_swap(model: Any) -> Any:
    return swap(model, "ghost", num_splits=1).model


def _folded(model: Any) -> Any:
    return fold(model).model


@pytest.mark.parametrize("operation", [_folded, _rebuilt_by_swap])
@pytest.mark.parametrize("function", [_threefold, _named_as_keras_names_one])
def test_functions_and_classes_that_are_not_registered_are_taken_from_the_layers(operation: Any, function: Any) -> None:
    """Keras writes them by name, and finds only what is registered; or, of the same name, a function of its own."""
    model = filled(
        keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, activation=function, kernel_initializer=_Halves()),
                layers.Dense(4),
                BatchNormalization(activation=function, gamma_initializer=_Halves()),
                layers.Activation(function),
                layers.Reshape((2, 2)),
                layers.TimeDistributed(layers.Dense(3, activation=function)),
            ]
        )
    )
    np.testing.assert_allclose(outputs(operation(model)), outputs(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("to", ["group", "renorm", "domains", "keras"])
def test_swap_makes_a_layer_with_functions_and_classes_that_are_not_registered(to: str) -> None:
    norm = BatchNormalization(activation=_threefold, gamma_initializer=_Halves())
    model = filled(keras.Sequential([keras.Input((6,)), layers.Dense(4), norm]))
    assert len(swap(model, to, domains=["day"] if to == "domains" else None).swapped) == 1


@pytest.mark.parametrize("operation", [_folded, _rebuilt_by_swap])
def test_what_keras_does_not_find_is_named_with_the_decorator(operation: Any) -> None:
    """Of two functions of one name in one layer, none can be told from the other."""

    def times(number: float) -> Any:
        def bent(x: Any) -> Any:
            return number * x

        return bent

    recurrent = layers.LSTM(3, activation=times(1), recurrent_activation=times(2), name="memory")
    model = keras.Sequential([keras.Input((5, 6)), layers.Dense(4), BatchNormalization(), recurrent])
    with pytest.raises(
        UnsuitableModel,
        match="'memory', a LSTM, names the function 'bent', which Keras does not know: "
        r"put the decorator @keras.saving.register_keras_serializable\(\) above the definition of",
    ):
        operation(model)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), BatchNormalization(), layers.Activation(lambda x: x)])
    with pytest.raises(UnsuitableModel, match="holds a lambda, which Keras does not read: give it a function that is "):
        operation(model)
