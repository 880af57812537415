import keras
import numpy as np

images = np.random.default_rng(0).normal(size=(8, 6, 6, 3))
x = keras.ops.convert_to_tensor(images, "float32")
relu, numpy = keras.ops.relu, keras.ops.convert_to_numpy

conv = keras.layers.Conv2D(5, 3)  # with a bias
norm = keras.layers.BatchNormalization()
y = norm(conv(x), training=True)
print("scales and shifts:", norm.gamma.shape[0], norm.beta.shape[0])
print("values behind each mean:", int(keras.ops.size(y)) // 5)

before = relu(norm(conv(x), training=True))
after = norm(relu(conv(x)), training=True)
print(f"before ReLU, mean is 0: {abs(numpy(before).mean()) < 1e-3}")
print(f"after ReLU, mean is 0: {abs(numpy(after).mean()) < 1e-3}")

conv.bias.assign(conv.bias + 1)
change = numpy(norm(conv(x), training=True) - y)
print(f"the bias changes something: {abs(change).max() > 1e-3}")
