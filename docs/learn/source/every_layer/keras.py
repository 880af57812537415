import keras
import numpy as np

numbers = np.random.default_rng(0)
batch = numbers.normal(size=(64, 32)).astype("float32")
weights = numbers.normal(size=(10, 32, 32)).astype("float32")


def sizes(factor, normalize):
    x, found = batch, []
    for w in factor * weights:
        x = keras.ops.matmul(x, w)
        if normalize:
            norm = keras.layers.BatchNormalization(epsilon=1e-5)
            x = norm(x, training=True)
        x = keras.ops.relu(x)
        found.append(keras.ops.convert_to_numpy(x).std())
    return f"{found[0]:.2g} {found[4]:.2g} {found[9]:.2g}"


for factor in (0.1, 0.25, 0.6):
    print(factor, "plain:", sizes(factor, False))
    print(factor, "batch norm:", sizes(factor, True))
