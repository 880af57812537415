"""A SavedModel, for TensorFlow Serving and whatever else runs TensorFlow; Keras on TensorFlow writes it."""

import os
import tempfile

os.environ["KERAS_BACKEND"] = "tensorflow"

import tensorflow
from keras_digits import compare, trained

model = trained()

with tempfile.TemporaryDirectory() as folder:
    model.export(f"{folder}/digits", format="tf_saved_model", verbose=False)
    deployed = tensorflow.saved_model.load(f"{folder}/digits")
    compare(model, deployed.serve)
