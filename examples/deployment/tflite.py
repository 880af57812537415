"""TFLite (LiteRT), for telephones and small devices; Keras on TensorFlow writes it."""

import os
import tempfile

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
import tensorflow
from keras_digits import compare, trained

model = trained()

with tempfile.TemporaryDirectory() as folder:
    model.export(f"{folder}/digits.tflite", format="litert", verbose=False)
    interpreter = tensorflow.lite.Interpreter(model_path=f"{folder}/digits.tflite")


def deployed(batch: np.ndarray) -> np.ndarray:
    images, answers = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(images, batch.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(images, batch)
    interpreter.invoke()
    return interpreter.get_tensor(answers)


compare(model, deployed)
