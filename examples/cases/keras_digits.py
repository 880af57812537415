"""Handwritten digits and a small Keras network, and the numbers that users look at."""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images, labels = (digits.images[order, ..., None] / 16).astype("float32"), digits.target[order]
train, held_out = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])
batches = [tuple(part[start : start + 64] for part in held_out) for start in range(0, len(held_out[0]), 64)]


def network(momentum=0.9):
    """Batch norms named low, middle and high."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=momentum, name="low"),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, use_bias=False),
            layers.BatchNormalization(momentum=momentum, name="middle"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(64, use_bias=False),
            layers.BatchNormalization(momentum=momentum, name="high"),
            layers.ReLU(),
            layers.Dense(10),
        ],
        name="digits",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def cross_entropy(outputs, targets):
    return keras.losses.sparse_categorical_crossentropy(targets, outputs, from_logits=True)


def accuracy(outputs, targets):
    return np.mean(keras.ops.convert_to_numpy(outputs).argmax(1) == np.asarray(targets))


def evaluate(model, training=False):
    """The share of right answers, in inference or in training mode; the model stays as it is."""
    kept = model.get_weights()
    found = float(np.mean([accuracy(model(x, training=training), y) for x, y in batches[:-1]]))
    model.set_weights(kept)
    return found
