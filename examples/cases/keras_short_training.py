"""val_accuracy stays at that of guessing while accuracy rises, on the very same data.

Source: "...significant difference between train and validation loss on the exact same data",
https://github.com/keras-team/keras/issues/7265, and the default momentum of 0.99,
https://github.com/keras-team/keras/issues/10666

After 11 batches, 90 % of the moving statistics are still the mean of 0 and the variance of 1 of the start.
"""

from keras_digits import accuracy, batches, cross_entropy, evaluate, network, train

import normwise

model = network(momentum=0.99)
model.fit(*train, batch_size=128, epochs=1, verbose=0)

reference, before = evaluate(model, training=True), evaluate(model)
print(f"accuracy on held-out digits: {reference:.2f} in training mode, {before:.2f} at inference\n")

diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
