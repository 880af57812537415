"""The same for Keras, on its torch backend: models, faults with the harm measured, and healthy states."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from benchmarks.doctor.case import Harm, does_harm, in_words
from benchmarks.doctor.digits import DATA, LEARNED, images
from benchmarks.doctor.training import with_adam

os.environ.setdefault("KERAS_BACKEND", "torch")
Batches = list[tuple[Any, Any]]
DEVELOPMENT = ("keras dense", "keras convolutional", "keras residual", "keras one-dimensional")
JUDGED = ("keras wide", "keras separable")


@dataclass(frozen=True)
class Case:
    """A Keras model to be examined.

    Args:
        model: as it is.
        batches: what the doctor gets.
        given: what else it gets.
        harm: that the fault does; None for a healthy model.
        guilty: the layers of which one has to be named first.
    """

    model: Any
    batches: Batches
    given: Mapping[str, Any] = field(default_factory=dict)
    harm: Harm | None = None
    guilty: tuple[str, ...] = ()


def _layers(kind: str, x: Any, momentum: float, dropout: bool) -> Any:
    from keras import layers

    number = iter(range(9))

    def norm(x: Any) -> Any:
        return layers.BatchNormalization(momentum=momentum, name=f"bn{next(number)}")(x)

    if kind == "keras dense":
        for width in (64, 48):
            x = layers.ReLU()(norm(layers.Dense(width, use_bias=False)(x)))
    elif kind == "keras convolutional":
        x = layers.Reshape((8, 8, 1))(x)
        for width, stride in ((12, 1), (24, 2)):
            x = layers.ReLU()(norm(layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)))
        x = layers.Flatten()(x)
    elif kind == "keras residual":
        x = layers.Reshape((8, 8, 1))(x)
        x = layers.ReLU()(norm(layers.Conv2D(12, 3, padding="same", use_bias=False)(x)))
        for _ in range(2):
            inner = layers.Activation("silu")(norm(layers.Conv2D(12, 3, padding="same", use_bias=False)(x)))
            x = layers.Add()([x, norm(layers.Conv2D(12, 3, padding="same", use_bias=False)(inner))])
        x = layers.Flatten()(layers.MaxPooling2D()(x))
    elif kind == "keras wide":
        for width in (96, 56):
            x = layers.Activation("gelu")(norm(layers.Dense(width, use_bias=False)(x)))
    elif kind == "keras separable":
        x = layers.Reshape((8, 8, 1))(x)
        x = layers.Activation("silu")(norm(layers.Conv2D(12, 3, padding="same", use_bias=False)(x)))
        for width in (20, 28):
            x = layers.SeparableConv2D(width, 3, 2, padding="same", use_bias=False)(x)
            x = layers.Activation("silu")(norm(x))
        x = layers.Flatten()(x)
    else:
        x = layers.Reshape((8, 8))(x)
        for width in (20, 24):
            x = layers.ReLU()(norm(layers.Conv1D(width, 3, padding="same", use_bias=False)(x)))
        x = layers.Flatten()(x)
    x = layers.Dense(32, use_bias=False)(x)
    if dropout:
        x = layers.Dropout(0.5)(x)
    return layers.Dense(10)(layers.ReLU()(norm(x)))


def built(kind: str, seed: int, momentum: float = 0.9, *, dropout: bool = False) -> Any:
    """A new model."""
    import keras

    keras.utils.set_random_seed(2000 + seed)
    inputs = keras.Input((64,))
    model = keras.Model(inputs, _layers(kind, inputs, momentum, dropout))
    optimizer = keras.optimizers.Adam(4e-3) if with_adam(seed) else keras.optimizers.SGD(0.02, momentum=0.9)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def learned(model: Any, seed: int, epochs: int = 5) -> Any:
    """The model after a training."""
    import keras

    keras.utils.set_random_seed(seed)
    x, y = (part.numpy()[:LEARNED] for part in images())
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


@cache
def _weights(of: str, kind: str, seed: int) -> list[Any]:
    del of  # the images are of it
    found: list[Any] = learned(built(kind, seed), seed).get_weights()
    return found


def trained(kind: str, seed: int) -> Any:
    """A healthy model."""
    model = built(kind, seed)
    model.set_weights(_weights(DATA.get(), kind, seed))
    return model


def held_out(size: int = 32) -> Batches:
    """The images that no model was trained on."""
    x, y = (part.numpy()[LEARNED:] for part in images())
    return [(x[start : start + size], y[start : start + size]) for start in range(0, len(x), size)]


def changed(batches: Batches) -> Batches:
    """The batches in another brightness and contrast."""
    return [((0.4 * x + 0.5).astype("float32"), y) for x, y in batches]


def loss(outputs: Any, targets: Any) -> Any:
    """The mean cross entropy."""
    import keras

    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True))


def accuracy(outputs: Any, targets: Any) -> float:
    """The share of right answers."""
    import keras

    right = keras.ops.convert_to_numpy(outputs).argmax(1) == keras.ops.convert_to_numpy(targets)
    return float(right.mean())


def measured(model: Any, batches: Batches) -> tuple[float, float]:
    """Loss and accuracy in inference mode."""
    import keras

    outputs = np.concatenate([keras.ops.convert_to_numpy(model(x, training=False)) for x, _ in batches])
    targets = np.concatenate([y for _, y in batches])
    shifted = outputs.astype(np.float64) - outputs.max(1, keepdims=True)
    right = shifted[np.arange(len(targets)), targets] - np.log(np.exp(shifted).sum(1))
    return -float(right.mean()), float((outputs.argmax(1) == targets).mean())


def harm_of(model: Any, batches: Batches, mend: Callable[[], object]) -> Harm:
    """The harm in a model's loss and answers, compared with those after it was mended."""
    now, right = measured(model, batches)
    mend()
    return _harm((now, right), measured(model, batches))


def behind(model: Any, layers: list[Any], batches: Batches, x: Any) -> str:
    """Do what ``case.behind`` does, by statistics that are the plain average over forwards in training mode.

    Args:
        model: is afterwards as before.
        layers: its batch norms.
        batches: held-out ones.
        x: the images that it learned from.
    """
    import keras

    before, momenta = model.get_weights(), [norm.momentum for norm in layers]
    for number, start in enumerate(range(0, len(x) - 1, 64)):
        for norm in layers:
            norm.momentum = number / (number + 1)
        keras.ops.stop_gradient(model(x[start : start + 64], training=True))
    right = model.get_weights()
    model.set_weights(before)
    harm = harm_of(model, batches, lambda: model.set_weights(right))
    model.set_weights(before)
    for norm, momentum in zip(layers, momenta, strict=True):
        norm.momentum = momentum
    return in_words(harm)


def _harm(found: tuple[float, float], twin: tuple[float, float]) -> Harm:
    (now, right), (before, right_before) = found, twin
    done = does_harm(now, before, right_before - right)
    return Harm(now / before, f"times the twin's loss; accuracy {right:.3f} after {right_before:.3f}", done)


def _sick(
    model: Any, twin: Any, *guilty: str, batches: Batches | None = None, of_twin: Batches | None = None, **given: Any
) -> Case:
    batches = held_out() if batches is None else batches
    harm = _harm(measured(model, batches), measured(twin, of_twin or held_out()))
    return Case(model, batches, given, harm, guilty)


def norms(model: Any) -> list[Any]:
    """The batch norms."""
    return [layer for layer in model.layers if layer.name.startswith("bn")]


def _one(model: Any, seed: int) -> Any:
    found = norms(model)
    return found[seed % len(found)]


def _reset(norm: Any) -> None:
    norm.moving_mean.assign(np.zeros(norm.moving_mean.shape))
    norm.moving_variance.assign(np.ones(norm.moving_variance.shape))


def _moved(kind: str, seed: int) -> Case:
    model = trained(kind, seed)
    norm = _one(model, seed)
    mean, var = (np.array(part) for part in (norm.moving_mean.numpy(), norm.moving_variance.numpy()))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], mean.shape)
    norm.moving_mean.assign(mean + signs * np.sqrt(var + 1e-3))
    norm.moving_variance.assign(2 * var)
    return _sick(model, trained(kind, seed), norm.name)


def _never(kind: str, seed: int) -> Case:
    model = trained(kind, seed)
    norm = _one(model, seed)
    _reset(norm)
    return _sick(model, trained(kind, seed), norm.name)


def _not_finite(kind: str, seed: int) -> Case:
    model = trained(kind, seed)
    norm = _one(model, seed)
    mean = np.array(norm.moving_mean.numpy())
    mean[seed % len(mean)] = np.nan
    norm.moving_mean.assign(mean)
    return _sick(model, trained(kind, seed), norm.name)


def _exploding(kind: str, seed: int) -> Case:
    model = trained(kind, seed)
    norm = _one(model, seed)
    scale = np.array(norm.gamma.numpy())
    scale[seed % 8] = 1e4
    norm.gamma.assign(scale)
    return _sick(model, trained(kind, seed), norm.name)


def _set_before(kind: str, seed: int, momentum: float, epochs: int = 5) -> Case:
    model, twin = (learned(built(kind, seed, each), seed, epochs) for each in (momentum, 0.9))
    return _sick(model, twin, *(norm.name for norm in norms(model)))


def _inverted(kind: str, seed: int) -> Case:
    model = built(kind, seed, 0.01)
    x, y = (part.numpy()[:LEARNED] for part in images())
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    twin = built(kind, seed, 0.9)
    twin.fit(x, y, batch_size=8, epochs=2, verbose=0)
    return _sick(model, twin, *(norm.name for norm in norms(model)))


def _drifted(kind: str, seed: int) -> Case:
    model, source = trained(kind, seed), trained(kind, seed)
    return _sick(model, source, batches=changed(held_out()), source_model=source)


def _others(kind: str, seed: int) -> Case:
    model, source, other = trained(kind, seed), trained(kind, seed), trained(kind, seed + 100)
    for mine, foreign in zip(norms(model), norms(other), strict=True):
        mine.moving_mean.assign(foreign.moving_mean)
        mine.moving_variance.assign(foreign.moving_variance)
    return _sick(model, source, source_model=source)


def _dropout(kind: str, seed: int) -> Case:
    model = learned(built(kind, seed, dropout=True), seed)
    return _sick(model, trained(kind, seed), norms(model)[-1].name)


FAULTS: dict[str, tuple[str, str, Callable[[str, int], Case]]] = {
    "keras_statistics_moved_in_one_layer": (
        "stale_running_statistics", "One layer's mean is moved by a standard deviation, its variance doubled.", _moved
    ),
    "keras_statistics_reset_in_one_layer": (
        "never_updated_statistics", "One layer has the statistics of the start.", _never
    ),
    "keras_mean_not_finite": ("non_finite_statistics", "One channel of one layer has a mean of NaN.", _not_finite),
    "keras_scale_of_ten_thousand": ("exploding_channels", "One channel of one layer has a scale of 1e4.", _exploding),
    "keras_momentum_of_pytorch": (
        "inverted_momentum", "All layers were trained with a momentum of 0.01, on batches of 8.", _inverted
    ),
    "keras_momentum_of_one": (
        "zero_momentum", "All layers were trained with a momentum of 1, which never updates.",
        lambda kind, seed: _set_before(kind, seed, 1.0),
    ),
    "keras_default_momentum": (
        "unfinished_warm_up", "All layers were trained for 66 steps with Keras's own momentum, 0.99.",
        lambda kind, seed: _set_before(kind, seed, 0.99, 3),
    ),
    "keras_other_brightness": (
        "drifted_data", "The images have another brightness and contrast; the source is given.", _drifted
    ),
    "keras_statistics_of_another_seed": (
        "statistics_of_other_weights", "The statistics are those of another seed's model; the source is given.", _others
    ),
    "keras_dropout_right_in_front": (
        "dropout_before_normalization", "A dropout of 0.5 right in front of the last norm, in training.", _dropout
    ),
}  # fmt: skip


def _ragged(kind: str, seed: int) -> Case:
    x, y = (part.numpy()[LEARNED:] for part in images())
    return Case(trained(kind, seed), [*held_out(66)[:-1], (x[-1:], y[-1:])])


def _frozen(kind: str, seed: int) -> Case:
    model = trained(kind, seed)
    norms(model)[0].trainable = False
    model.compile("adam", model.loss)
    return Case(model, held_out(), {"train_step": lambda model, batch: model.train_on_batch(*batch)})


HEALTHY: dict[str, Callable[[str, int], Case]] = {
    "keras_as_trained": lambda kind, seed: Case(trained(kind, seed), held_out()),
    "keras_ragged": _ragged,
    "keras_ordinary_steps": lambda kind, seed: Case(
        trained(kind, seed), held_out(), {"train_step": lambda model, batch: model.train_on_batch(*batch)}
    ),
    "keras_rightly_frozen": _frozen,
    "keras_source": lambda kind, seed: Case(
        trained(kind, seed), held_out(), {"source_model": trained(kind, seed)}
    ),
}  # fmt: skip
