import keras
import numpy as np

numbers = np.random.default_rng(0)
batch = numbers.normal(size=(128, 256)).astype("float32")
weights = numbers.normal(size=(30, 256, 256)).astype("float32")
norm = keras.layers.BatchNormalization(epsilon=1e-5)


def network(x, depth, normalize):
    for w in weights[:depth] * (2 / 256) ** 0.5:
        x = keras.ops.matmul(x, w)
        x = norm(x, training=True) if normalize else x
        x = keras.ops.relu(x)
    return keras.ops.convert_to_numpy(x)


size = np.linalg.norm
little = 1e-4 * numbers.normal(size=(128, 256)).astype("float32")
for depth in (1, 10, 20, 30):
    found = []
    for normalize in (False, True):
        y = network(batch, depth, normalize)
        moved = network(batch + little, depth, normalize)
        change = size(moved - y) / size(y)
        found.append(change / (size(little) / size(batch)))
    print(f"{depth}: plain {found[0]:.2g}, batch norm {found[1]:.2g}")
