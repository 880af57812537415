import keras
import numpy as np
from keras import layers

x = np.sin(np.arange(48.0)).reshape(2, 4, 6)  # 2 samples
company = x.copy()
company[1] += 3  # another second sample
brighter = x.copy()
brighter[0] += 3  # every channel of the first sample
channel = x.copy()
channel[0, :, 0] += 3  # one channel of the first sample

norms = {
    "batch": layers.BatchNormalization(epsilon=1e-5),
    "layer": layers.GroupNormalization(1, epsilon=1e-5),
    "group": layers.GroupNormalization(3, epsilon=1e-5),
    "instance": layers.GroupNormalization(-1, epsilon=1e-5),
}


def first(layer, x):
    how = {"training": True} if layer is norms["batch"] else {}
    return keras.ops.convert_to_numpy(layer(x, **how))[0]


for name, layer in norms.items():
    y = first(layer, x)
    same = [
        np.allclose(first(layer, other), y, atol=1e-3)
        for other in (company, brighter, channel)
    ]
    print(name, *same)
