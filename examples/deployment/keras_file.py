"""A `.keras` file, the whole model; what loads it imports normwise.keras first. KERAS_BACKEND is the backend."""

import tempfile

import keras
from keras_digits import compare, trained

model = trained()

with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/digits.keras")
    deployed = keras.saving.load_model(f"{folder}/digits.keras")
compare(model, lambda batch: keras.ops.convert_to_numpy(deployed(batch, training=False)))
