"""The loss in training is finite, and every prediction is NaN.

Source: "NaN weights without NaN loss", https://github.com/keras-team/keras/issues/11858, and
https://github.com/tensorflow/tensorflow/issues/24320

A broken sample was in one batch, which went through the model in training mode.
"""

import numpy as np
from keras_digits import accuracy, batches, cross_entropy, evaluate, network, train

import normwise

model = network()
model.fit(*train, batch_size=64, epochs=2, verbose=0)
broken = train[0][:64].copy()
broken[0, 0, 0] = np.inf
model(broken, training=True)

reference, before = evaluate(model, training=True), evaluate(model)
print(f"accuracy on held-out digits: {reference:.2f} in training mode, {before:.2f} at inference\n")

diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
