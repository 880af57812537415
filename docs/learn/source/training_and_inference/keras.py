import keras
import normwise
import numpy as np

batch = np.array([[2.0], [4], [6], [8]], dtype="float32")
layer = keras.layers.BatchNormalization()
model = keras.Sequential([keras.Input((1,)), layer])


def say(when):
    mean, var = layer.moving_mean[0], layer.moving_variance[0]
    print(f"{when}: mean {float(mean):.2f}, var {float(var):.2f}")


say("new")
for _ in range(10):
    model(batch, training=True)  # 0.99 is the weight of the old

say("after 10 batches")

y = model(batch, training=False)
y = keras.ops.convert_to_numpy(y)
print([f"{each:.2f}" for each in y.flatten().tolist()])

normwise.recalibrate(model, [batch])
say("recalibrated")
y = model(batch, training=False)
y = keras.ops.convert_to_numpy(y)
print([f"{each:.2f}" for each in y.flatten().tolist()])
