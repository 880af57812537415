"""A convolutional Keras network on handwritten digits: `normwise lab compare examples/compare_keras.py:net`."""

import keras
from keras import layers
from sklearn.datasets import load_digits


def net():
    """A new model at each call."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def rows():
    """Inputs and targets: whole numbers are classes."""
    data = load_digits()
    return (data.images[..., None] / 16).astype("float32"), data.target
