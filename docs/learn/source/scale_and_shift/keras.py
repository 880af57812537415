import keras
import numpy as np

one = np.array([[2.0], [4], [6], [8]])
other = np.array([[0.0], [4], [8], [12]])
layer = keras.layers.BatchNormalization(epsilon=1e-5)
layer.build((None, 1))
print("new:", *layer.get_weights()[0], *layer.get_weights()[1])

# Scale and shift that undo the normalization of `one`.
layer.gamma.assign([(5 + 1e-5) ** 0.5])  # its deviation
layer.beta.assign([5])  # its mean
for batch in (one, other):
    y = layer(batch, training=True)
    y = keras.ops.convert_to_numpy(y)
    print([f"{each:.2f}" for each in y.flatten().tolist()])
