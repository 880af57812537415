"""Keras's batch normalization replaced by normwise's, on real handwritten digits; KERAS_BACKEND picks the backend."""

import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

import normwise
from normwise.keras import (
    BatchNormalization,  # the one import that changes
    MonitorStatistics,
    RecalibrateStatistics,
    convert,
    to_keras,
)

keras.utils.set_random_seed(0)
data = load_digits()
images = (data.images[..., None] / 16).astype("float32")
train, test = (images[:1440], data.target[:1440]), (images[1440:], data.target[1440:])


def network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            # Before the activation: the layer does it in the same pass. A bias in front would be subtracted again.
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            BatchNormalization(momentum=0.9, activation="relu"),
            layers.Conv2D(32, 3, strides=2, use_bias=False),
            BatchNormalization(momentum=0.9, activation="relu", gamma_regularizer=keras.regularizers.L2(1e-4)),
            layers.Flatten(),
            # After the activation works as well, and behind a Dense layer too.
            layers.Dense(32, activation="relu"),
            BatchNormalization(momentum=0.9),
            layers.Dense(10),
        ],
        name="digits",
    )


# fit, evaluate, predict and callbacks are Keras's. Two callbacks are new: one sets the moving statistics to those of
# the data before each validation, the other says how far they were from them before that.
model = network()
model.compile(
    keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
)
stop = keras.callbacks.EarlyStopping(monitor="val_accuracy", mode="max", patience=3, restore_best_weights=True)
monitor, recalibrate = MonitorStatistics(train[0][:256], per_layer=False), RecalibrateStatistics(train[0], at_most=8)
callbacks = [monitor, stop, recalibrate]
history = model.fit(*train, batch_size=64, epochs=8, validation_data=test, callbacks=callbacks, verbose=0)
_, accuracy = model.evaluate(*test, verbose=0)
print(f"trained for {len(history.history['loss'])} epochs, accuracy on the test set {accuracy:.3f}")
drift = history.history["drift"]
print(f"the moving averages were up to {max(drift):.2f} standard deviations off, at the end {drift[-1]:.2f}")

# training=True normalizes by the batch, training=False by the moving statistics. Here they differ, as they do anywhere.
batch = test[0][:32]
apart = keras.ops.convert_to_numpy(keras.ops.absolute(model(batch, training=True) - model(batch, training=False)))
print(f"training=True and training=False differ by up to {apart.max():.2f} in the logits")

# Less light, other statistics: adapted to images without labels, and undone at the end of the block.
dark = test[0] * 0.2
_, before = model.evaluate(dark[64:], test[1][64:], verbose=0)
with normwise.adapt(model, dark[:64], prior=4):
    _, adapted = model.evaluate(dark[64:], test[1][64:], verbose=0)
print(f"in the dark: {before:.3f}, adapted with 64 images: accuracy {adapted:.3f}")

# Saving and loading: the file knows the layer as normwise's.
folder = Path(tempfile.mkdtemp())
model.save(folder / "digits.keras")
again = keras.models.load_model(folder / "digits.keras")
assert np.array_equal(again.predict(batch, verbose=0), model.predict(batch, verbose=0))

# A model with Keras's own layers becomes one with ours in place, and ours Keras's again.
theirs = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(8), layers.BatchNormalization()])
print("converted:", convert(theirs).layers, "and back:", to_keras(theirs).layers)

# Transfer learning. trainable=False puts the layers into inference mode, whatever `training` says: the moving
# statistics of the first task stay byte for byte.
body = keras.Model(model.inputs, model.layers[-2].output)
body.trainable = False
frozen = [keras.ops.convert_to_numpy(weight.value) for weight in body.weights]
inputs = keras.Input((8, 8, 1))
odd = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(body(inputs)))
odd.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=["accuracy"])
odd.fit(train[0], train[1] % 2, batch_size=64, epochs=5, verbose=0)
_, accuracy = odd.evaluate(test[0], test[1] % 2, verbose=0)
same = zip(body.weights, frozen, strict=True)
assert all(np.array_equal(keras.ops.convert_to_numpy(weight.value), before) for weight, before in same)
print(f"odd or even, from the frozen features: accuracy {accuracy:.3f}")
