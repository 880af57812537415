import keras
import numpy as np

x = np.array([[2.0], [4], [6], [8]])  # four samples

mean = x.mean(axis=0)
var = x.var(axis=0)  # divided by 4, not by 3
by_hand = (x - mean) / np.sqrt(var + 1e-5)
print(f"mean {mean.item():.0f}, variance {var.item():.0f}")
print([f"{each:.3f}" for each in by_hand.flatten().tolist()])

layer = keras.layers.BatchNormalization(epsilon=1e-5)
y = layer(x, training=True)
y = keras.ops.convert_to_numpy(y)
print([f"{each:.3f}" for each in y.flatten().tolist()])
