"""Networks of keras.applications after a short training on digits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.doctor.digits import LEARNED, images
from benchmarks.doctor.keras_cases import Batches, Case, behind, held_out

SIDE = 32
EPOCHS = 5
NETWORKS: dict[str, dict[str, Any]] = {
    "MobileNet 0.25": {"alpha": 0.25},
    "MobileNetV3Small 0.75": {"alpha": 0.75, "minimalistic": True, "include_preprocessing": False},
}


def larger(batches: Batches) -> Batches:
    """Images of three channels and a side that these networks take."""
    return [(_larger(x), y) for x, y in batches]


def _larger(x: Any) -> Any:
    times = SIDE // 8
    return np.repeat(np.repeat(x.reshape(-1, 8, 8, 1), times, 1), times, 2).repeat(3, 3).astype("float32") * 2 - 1


def _norms(model: Any) -> list[Any]:
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def network(name: str) -> Any:
    """Trained with Adam, the rate falling to 0.

    Their norms come with a momentum of 0.99 or 0.999, for trainings of thousands of steps; they get 0.9 for this one.
    """
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name.split()[0])(
        input_shape=(SIDE, SIDE, 3), weights=None, classes=10, classifier_activation=None, **NETWORKS[name]
    )
    for norm in _norms(model):
        norm.momentum = 0.9
    x, y = (part.numpy()[:LEARNED] for part in images())
    steps = EPOCHS * math.ceil(LEARNED / 64)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(_larger(x), y, batch_size=64, epochs=EPOCHS, verbose=0)
    return model


def healthy(name: str) -> Case:
    """A network and the held-out images."""
    return Case(network(name), larger(held_out()))


def why_unhealthy(case: Case) -> str:
    """Why the network is not healthy after so short a training, or ""."""
    return behind(case.model, _norms(case.model), case.batches, _larger(images()[0].numpy()[:LEARNED]))
