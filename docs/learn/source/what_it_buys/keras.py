import keras
from keras import layers
from sklearn.datasets import load_digits

x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")


def network(batch_norm):
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(5):
        model.add(layers.Dense(64))
        if batch_norm:
            model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.Activation("sigmoid"))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def trained(batch_norm, rate):
    keras.utils.set_random_seed(0)
    model = network(batch_norm)
    model.compile(
        optimizer=keras.optimizers.SGD(rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=60, epochs=5, verbose=0)
    right = model.evaluate(x, y, batch_size=256, verbose=0)[1]
    return "learned" if right > 0.8 else "did not learn"


for rate in (0.1, 1.0):
    print(f"rate {rate}, plain: {trained(False, rate)}")
    print(f"rate {rate}, batch norm: {trained(True, rate)}")
