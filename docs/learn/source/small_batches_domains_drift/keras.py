import keras
import normwise
import numpy as np

normal = np.random.default_rng(0).normal(size=(1024, 1))
day = normal.astype("float32")
night = 2 * day + 5  # the same things, seen otherwise

for size in (2, 8, 32):
    means = day.reshape(-1, size).mean(axis=1)
    print(f"batches of {size}, means differ by {means.std():.2f}")

layer = keras.layers.BatchNormalization(epsilon=1e-5)
model = keras.Sequential([keras.Input((1,)), layer])


def say(statistics):
    d, n = (model.predict(x, verbose=0) for x in (day, night))
    print(f"{statistics}: day {d.mean():z.1f} {d.std():.1f},", end="")
    print(f" night {n.mean():z.1f} {n.std():.1f}")


normwise.recalibrate(model, [day])
say("of day")
normwise.recalibrate(model, [day, night])
say("of both")
normwise.adapt(model, [night], prior=0)
say("of night")
