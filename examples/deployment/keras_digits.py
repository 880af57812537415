"""The Keras model that the scripts for Keras deploy, trained for a moment on real handwritten digits."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from normwise.keras import BatchNormalization

digits = load_digits()
images = (digits.images[..., None] / 16).astype("float32")
train, test = images[:1440], images[1440:]


def trained() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            BatchNormalization(momentum=0.9, activation="relu"),
            layers.Conv2D(32, 3, strides=2, use_bias=False),
            BatchNormalization(momentum=0.9, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(train, digits.target[:1440], batch_size=64, epochs=2, verbose=0)
    return model


def compare(model: keras.Model, deployed: Callable[[np.ndarray], Any]) -> None:
    """Print the largest difference between the answers of the two, in batches of 8 and of 1."""
    for size in (8, 1):
        batch = test[:size]
        answers = keras.ops.convert_to_numpy(model(batch, training=False))
        difference = np.abs(np.asarray(deployed(batch)) - answers).max()
        print(f"batch of {size}: the answers differ by at most {difference:.1e}")
