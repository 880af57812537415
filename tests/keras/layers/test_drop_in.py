"""One import is changed and nothing else: the same training, the same weights, the same files, whatever the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from normwise.keras import BatchNormalization
from tests.keras.calls import BACKEND, values

Theirs = keras.layers.BatchNormalization


def digits() -> tuple[Any, Any]:
    data = load_digits()
    return (data.images[:448, :, :, None] / 16).astype("float32"), data.target[:448]


def images_model(layer: Any) -> Any:
    """A network of Dense and Conv2D layers with batch normalization before and after the activation."""
    keras.backend.clear_session()  # names are counted from the start
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, use_bias=False),
            layer(momentum=0.9, gamma_regularizer="l2", beta_constraint=keras.constraints.MaxNorm(1.0)),
            keras.layers.Activation("relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            layer(momentum=0.9),
            keras.layers.Dense(10),
        ]
    )


def compiled(model: Any, **arguments: Any) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"], **arguments)
    return model


def trained(model: Any, **arguments: Any) -> tuple[list[float], Any]:
    x, y = digits()
    history = compiled(model, **arguments).fit(x, y, batch_size=64, epochs=2, shuffle=False, verbose=0)
    return [*history.history["loss"], *model.evaluate(x, y, verbose=0)], model.predict(x[:50], verbose=0)


@pytest.mark.parametrize("arguments", [{}, {"run_eagerly": True}] if BACKEND == "tensorflow" else [{}])
def test_fit_evaluate_and_predict_give_keras_numbers(arguments: dict[str, Any]) -> None:
    losses, predicted = trained(images_model(BatchNormalization), **arguments)
    theirs, predicted_by_theirs = trained(images_model(Theirs), **arguments)
    np.testing.assert_allclose(losses, theirs, rtol=1e-3)
    np.testing.assert_allclose(predicted, predicted_by_theirs, atol=2e-2)
    assert losses[1] < losses[0]


def test_compiled_by_xla_and_not_it_is_the_same() -> None:
    if BACKEND == "torch":
        pytest.skip("there the compiler is torch.compile, which tests/torch has")
    compiled, _ = trained(images_model(BatchNormalization), jit_compile=True)
    plain, _ = trained(images_model(BatchNormalization), jit_compile=False)
    np.testing.assert_allclose(compiled, plain, rtol=1e-3)


def test_weights_have_keras_names_order_and_regularizers() -> None:
    mine, theirs = images_model(BatchNormalization), images_model(Theirs)
    assert [weight.path for weight in mine.weights] == [weight.path for weight in theirs.weights]
    assert [weight.trainable for weight in mine.weights] == [weight.trainable for weight in theirs.weights]
    assert len(mine.losses) == len(theirs.losses) == 1
    mine.set_weights(theirs.get_weights())


SETTINGS: list[dict[str, Any]] = [
    {},
    {"axis": 1, "momentum": 0.5, "epsilon": 1e-5, "center": False, "gamma_initializer": "zeros"},
    {"renorm": True, "renorm_clipping": {"rmax": 3.0, "dmax": 5.0}, "renorm_momentum": 0.9, "dtype": "mixed_float16"},
    {"beta_regularizer": "l1", "gamma_constraint": "non_neg", "trainable": False, "name": "bn"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_config_is_keras(settings: dict[str, Any]) -> None:
    settings = {"name": "layer", **settings}
    assert BatchNormalization(**settings).get_config() == Theirs(**settings).get_config()
    assert Theirs.from_config(BatchNormalization(**settings).get_config()).get_config()
    assert isinstance(BatchNormalization.from_config(Theirs(**settings).get_config()), BatchNormalization)


@pytest.mark.parametrize(
    ("settings", "entries"),
    [
        ({"activation": "relu"}, {"activation": "relu"}),
        ({"estimator": "pooled"}, {"estimator": {"name": "pooled", "settings": {}}}),
        ({"on_tiny_batch": "running"}, {"on_tiny_batch": "running"}),
    ],
)
def test_what_is_new_is_in_the_config_when_it_is_used(settings: dict[str, Any], entries: dict[str, Any]) -> None:
    layer = BatchNormalization(name="layer", **settings)
    assert layer.get_config() == {**Theirs(name="layer").get_config(), **entries}
    again = BatchNormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.activation is layer.activation
    assert again.estimator == layer.estimator


def test_a_file_of_ours_comes_back(tmp_path: Path) -> None:
    model = images_model(BatchNormalization)
    trained(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.layers[1]) is BatchNormalization
    x, _ = digits()
    np.testing.assert_array_equal(again.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0))


def test_keras_reads_a_file_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = images_model(BatchNormalization)
    trained(model)
    model.save(tmp_path / "model.keras")
    names = {"normwise>BatchNormalization": Theirs}
    monkeypatch.delitem(keras.saving.get_custom_objects(), "normwise>BatchNormalization")  # not imported there
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects=names)
    assert type(again.layers[1]) is Theirs
    x, _ = digits()
    np.testing.assert_allclose(again.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0), atol=1e-5)


def test_weights_files_go_both_ways(tmp_path: Path) -> None:
    x, _ = digits()
    for index, (source, target) in enumerate([(BatchNormalization, Theirs), (Theirs, BatchNormalization)]):
        model, other = images_model(source), images_model(target)
        trained(model)
        model.save_weights(tmp_path / f"{index}.weights.h5")
        other.load_weights(tmp_path / f"{index}.weights.h5")
        np.testing.assert_allclose(other.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0), atol=1e-5)


def test_a_frozen_layer_is_in_inference_whatever_training_says() -> None:
    layer = BatchNormalization(trainable=False)
    x = np.random.default_rng(0).normal(3, 2, (8, 4)).astype("float32")
    np.testing.assert_allclose(values(layer(x, training=True)), x / np.sqrt(1 + 1e-3), rtol=1e-6)
    np.testing.assert_array_equal(values(layer.moving_mean), 0)


def test_the_training_argument_of_a_model_reaches_it() -> None:
    class Inside(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.normalization = BatchNormalization(momentum=0.0)

        def call(self, inputs: Any, training: bool | None = None) -> Any:
            return self.normalization(inputs, training=training)

    x = np.random.default_rng(0).normal(3, 2, (8, 4)).astype("float32")
    model = Inside()
    model(x)
    np.testing.assert_array_equal(values(model.normalization.moving_mean), 0)
    model(x, training=True)
    np.testing.assert_allclose(values(model.normalization.moving_mean), x.mean(0), rtol=1e-5)


def test_a_functional_model_with_a_residual_is_saved_and_loaded(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    y = keras.layers.Conv2D(4, 3, padding="same")(x)
    y = BatchNormalization(activation="relu")(y, residual=x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(y))
    images, _ = digits()
    before = model.predict(images[:5], verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(images[:5], verbose=0), before)
    assert before.min() >= 0


def test_a_stateless_call_returns_what_the_statistics_become_and_changes_nothing() -> None:
    layer = BatchNormalization(momentum=0.9)
    x = np.random.default_rng(0).normal(3, 2, (64, 32, 32)).astype("float32")  # large, for the compiled kernels
    layer.build(x.shape)
    state = (
        [variable.value for variable in layer.trainable_variables],
        [variable.value for variable in layer.non_trainable_variables],
    )
    y, after = layer.stateless_call(*state, keras.ops.convert_to_tensor(x), training=True)
    np.testing.assert_array_equal(values(layer.moving_mean), 0)
    np.testing.assert_allclose(values(after[0]), 0.1 * x.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(values(y), values(layer(x, training=True)), atol=1e-6)


def test_an_activity_regularizer_adds_its_loss() -> None:
    layer = BatchNormalization(activity_regularizer="l2")
    layer(np.ones((4, 3), "float32"))
    assert len(layer.losses) == 1
