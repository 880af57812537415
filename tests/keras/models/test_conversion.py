"""A whole model from Keras's batch normalization to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.keras import BatchNormalization, convert, to_keras
from tests.keras.calls import values

Theirs = keras.layers.BatchNormalization


class Own(keras.layers.BatchNormalization):
    """Somebody's own layer."""


class Subclassed(keras.Model):
    """A model with layers in attributes, in a list, in a model and in a wrapper; the last is not built yet."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = Theirs()
        self.several = [Theirs(), Own()]
        self.inside = keras.Sequential([keras.layers.Dense(4), Theirs()])
        self.wrapped = keras.layers.TimeDistributed(Theirs())

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = self.alone(inputs, training=training)
        for layer in self.several:
            x = layer(x, training=training)
        return self.wrapped(self.inside(x, training=training), training=training)


def sequences() -> Any:
    return np.random.default_rng(0).normal(2, 3, (16, 5, 4)).astype("float32")


def kinds(model: Any) -> list[type]:
    return [type(layer) for layer in model._flatten_layers() if isinstance(layer, Theirs)]


@pytest.mark.parametrize("built", [True, False])
def test_every_layer_is_reached_and_the_model_does_the_same(built: bool) -> None:
    keras.utils.set_random_seed(1)
    model, x = Subclassed(), sequences()
    if built:
        model(x, training=True)
    weights = list(model.weights)
    before = values(model(x)) if built else None
    report = convert(model)
    assert report.model is model
    assert len(report.layers) == 4
    assert list(report.left.values()) == ["Own is a class of its own, which may do something else"]
    assert sorted(kind.__name__ for kind in kinds(model)) == ["BatchNormalization"] * 4 + ["Own"]
    assert kinds(model).count(BatchNormalization) == 4
    if before is not None:
        assert all(one is other for one, other in zip(model.weights, weights, strict=True))
        np.testing.assert_allclose(values(model(x)), before, atol=1e-5)
    model(x, training=True)
    assert to_keras(model).layers == convert(model).layers


def small_model() -> Any:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, use_bias=False)(inputs)  # whose gradient would be rounding only
    x = keras.layers.Activation("relu")(Theirs(name="bn")(x))
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def test_training_goes_on_with_the_optimizer_as_it_was() -> None:
    x = np.random.default_rng(0).normal(2, 3, (64, 4)).astype("float32")
    histories = []
    for converts in (False, True):
        model = small_model()
        model.compile(keras.optimizers.Adam(0.01), "mse")
        model.fit(x, x[:, :1], epochs=1, shuffle=False, verbose=0)
        if converts:
            assert convert(model).layers == ["bn"]
        histories.append(model.fit(x, x[:, :1], epochs=2, shuffle=False, verbose=0).history["loss"])
        histories[-1].append(model.evaluate(x, x[:, :1], verbose=0))
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-4)


def test_what_was_compiled_before_is_traced_again() -> None:
    x = np.array([[np.nan, 1, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1]], "float32")
    model = keras.Sequential([keras.Input((4,)), Theirs(name="bn")])
    model.compile("sgd", "mse")
    model.fit(x[1:], x[1:], verbose=0)
    convert(model)
    model.fit(x, x, verbose=0)
    assert np.isfinite(values(model.layers[0].moving_mean)).all()


def test_files_of_keras_become_ours_and_ours_keras(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(2, 3, (64, 4)).astype("float32")
    model = small_model()
    before = model.predict(x, verbose=0)
    model.save(tmp_path / "theirs.keras")
    loaded = keras.models.load_model(tmp_path / "theirs.keras")
    assert convert(loaded).layers == ["bn"]
    np.testing.assert_allclose(loaded.predict(x, verbose=0), before, atol=1e-5)
    assert to_keras(loaded).layers == ["bn"]
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert kinds(again) == [Theirs]
    assert again.get_layer("bn").get_config() == model.get_layer("bn").get_config()
    np.testing.assert_allclose(again.predict(x, verbose=0), before, atol=1e-6)


def test_what_keras_cannot_do_is_refused_before_anything_is_changed() -> None:
    plain = BatchNormalization(name="plain")
    model = keras.Sequential([keras.Input((4,)), plain, BatchNormalization(name="bn", estimator="pooled")], name="m")
    with pytest.raises(NormwiseError) as error:
        to_keras(model)
    assert str(error.value) == (
        "Keras's layer has no estimator, and layer 'm/bn' has one: use swap, which converts it and says what is "
        "different in training, or keep normwise's."
    )
    assert type(plain) is BatchNormalization


def test_activations_and_residuals_become_layers_of_their_own() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    y = BatchNormalization(name="bn", activation="relu")(inputs, residual=inputs)
    model, x = keras.Model(inputs, y), np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    report = to_keras(model)
    assert report.layers == ["bn"]
    assert [layer.name for layer in report.model.layers][1:] == ["bn", "bn_add", "bn_activation"]
    assert kinds(report.model) == [Theirs]
    np.testing.assert_allclose(values(report.model(x)), values(model(x)), atol=1e-6)


def test_an_activation_in_a_class_of_its_own_is_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.bn = BatchNormalization(name="bn", activation="relu")

        def call(self, inputs: Any) -> Any:
            return self.bn(inputs)

    model = Own()
    model(np.zeros((2, 4), "float32"))
    with pytest.raises(NormwiseError) as error:
        to_keras(model)
    assert str(error.value) == (
        "Keras's layer has no activation, and nothing can be put behind layer 'own/bn', because Own is a class of its "
        "own, whose call cannot be rewritten: build the model with the activation behind the layer, or ship it by "
        "model.export."
    )


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError) as error:
        convert("model")
    assert str(error.value) == "a Keras model or layer is wanted, received str: pass the model."
