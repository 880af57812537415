import keras
import numpy as np

x = np.array([2.0, 4, 6, 8])
dy = np.array([1.0, -2, 0.5, 3])
scale, eps = 1.5, 1e-5

# By the formula.
deviation = np.sqrt(x.var() + eps)
normal = (x - x.mean()) / deviation
away = dy - dy.mean() - normal * (dy * normal).mean()
dx = scale / deviation * away

# By moving each x a little, on whatever backend Keras has.
layer = keras.layers.BatchNormalization(epsilon=eps)
layer.build((None, 1))
layer.gamma.assign([scale])


def loss(x):
    y = layer(x.reshape(4, 1), training=True)
    y = keras.ops.convert_to_numpy(y).flatten()
    return (y * dy).sum()


little = 0.01 * np.eye(4)
moved = [(loss(x + d) - loss(x - d)) / 0.02 for d in little]

print([f"{each:.2f}" for each in dx.tolist()])
print([f"{each:.2f}" for each in moved])
print(f"sum is 0: {abs(dx.sum()) < 1e-12}")
print(f"sum against x is 0: {abs((dx * normal).sum()) < 1e-4}")
