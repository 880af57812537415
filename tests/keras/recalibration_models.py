"""Models of every make for the tests of ``recalibrate`` and ``adapt``, and what comes into their batch norms."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

import normwise.keras as nk
from normwise.keras.models.feeding import without_gradients
from tests.keras.calls import values

F64 = NDArray[np.float64]


def images(samples: int = 20) -> NDArray[np.float32]:
    """Images that are not centred, and not alike."""
    rng = np.random.default_rng(1)
    return (rng.normal(3, 2, (samples, 6, 6, 2)) * (1 + np.arange(samples)[:, None, None, None] / 8)).astype("float32")


def functional() -> Any:
    """A branch, batch norms of both kinds, dropout, one that is used twice, and a model inside."""
    inside = keras.Sequential(
        [keras.layers.Conv2D(4, 1), nk.BatchNormalization(activation="relu", name="inner")], name="inside"
    )
    x = inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3)(x)
    first = keras.layers.BatchNormalization(name="first")
    twice = keras.layers.BatchNormalization(name="twice")
    x = keras.layers.ReLU()(first(x))
    x = keras.layers.Add()([inside(x), twice(x), twice(keras.layers.Conv2D(4, 1)(x))])
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="last")(x), name="functional")
    return _with_parameters(model)


def sequential() -> Any:
    """Two layers of each."""
    return _with_parameters(
        keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                keras.layers.Conv2D(3, 3),
                keras.layers.BatchNormalization(name="one"),
                keras.layers.ReLU(),
                keras.layers.Flatten(),
                keras.layers.Dense(4),
                nk.GhostBatchNormalization(virtual_batch_size=4, name="two"),
                keras.layers.GaussianNoise(1.0),
                keras.layers.Dense(2),
            ],
            name="sequential",
        )
    )


class Subclassed(keras.Model):
    """Layers in attributes and in a list."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.first = keras.layers.Conv2D(3, 3)
        self.norms = [keras.layers.BatchNormalization(name=f"norm{k}") for k in range(2)]
        self.second = keras.layers.Conv2D(3, 1)

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = ops.relu(self.norms[0](self.first(x), training=training))
        return self.norms[1](self.second(x), training=training)


def subclassed() -> Any:
    """Built by its first batch."""
    model = Subclassed()
    model(images(2))
    return _with_parameters(model)


def in_time() -> Any:
    """One in a wrapper that calls it for every step."""
    return _with_parameters(
        keras.Sequential(
            [
                keras.Input((6, 6, 2)),
                keras.layers.TimeDistributed(keras.layers.Dense(3)),
                keras.layers.TimeDistributed(keras.layers.BatchNormalization(name="every_step")),
                keras.layers.Flatten(),
                keras.layers.BatchNormalization(name="behind"),
            ],
            name="in_time",
        )
    )


MODELS = {"functional": functional, "sequential": sequential, "subclassed": subclassed, "in_time": in_time}
CALLED_TWICE = ("functional", "in_time")  # a batch norm of theirs, by one batch


def norms(model: Any) -> list[Any]:
    """Each of them once."""
    found = {id(each): each for each in model._flatten_layers()}.values()
    return [each for each in found if isinstance(each, keras.layers.BatchNormalization)]


def inputs_of_norms(model: Any, x: Any, training: bool = False) -> list[F64]:
    """The input of every batch norm at inference, or in training, all of it at once: (values, channels)."""
    caught: dict[int, list[F64]] = {id(layer): [] for layer in norms(model)}
    with contextlib.ExitStack() as covered:
        for layer in norms(model):
            below = layer.call

            def call(inputs: Any, *rest: Any, layer: Any = layer, below: Any = below, **named: Any) -> Any:
                caught[id(layer)].append(np.asarray(values(inputs), np.float64).reshape(-1, inputs.shape[-1]))
                return below(inputs, *rest, **named)

            vars(layer)["call"] = call
            covered.callback(vars(layer).pop, "call")
        with without_gradients():
            model(x, training=training)
    return [np.concatenate(caught[id(layer)]) for layer in norms(model)]


def everything(model: Any) -> list[bytes]:
    """The bytes of every variable: of layers, seeds, metrics and the optimizer."""
    variables = [*model.variables, *model.metrics_variables]
    optimizer = getattr(model, "optimizer", None)
    variables += [] if optimizer is None else optimizer.variables
    return [values(variable).tobytes() for variable in variables]


def _with_parameters(model: Any) -> Any:
    rng = np.random.default_rng(2)
    for layer in norms(model):
        layer.gamma.assign(rng.uniform(0.5, 2.0, layer.gamma.shape))
        layer.beta.assign(rng.normal(size=layer.beta.shape))
    return model
