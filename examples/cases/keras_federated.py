"""The server's model guesses, though every client's is good.

Source: https://github.com/owkin/FLamby/issues/260 and https://github.com/SymbioticLab/FedScale/issues/57 (federated
averaging that forgets the buffers)

The server averages trainable_weights. The moving statistics are not among them, and stay those of a new model.
"""

import keras
import numpy as np
from keras_digits import accuracy, batches, cross_entropy, evaluate, network, train

import normwise

clients = [network(), network()]
for number, client in enumerate(clients):
    x, y = (part[number::2] for part in train)
    client.fit(x, y, batch_size=64, epochs=3, verbose=0)

model = network()
for mine, *theirs in zip(model.trainable_weights, *(each.trainable_weights for each in clients), strict=True):
    mine.assign(np.mean([keras.ops.convert_to_numpy(each) for each in theirs], axis=0))

reference, before = evaluate(model, training=True), evaluate(model)
print(f"accuracy on held-out digits: {evaluate(clients[0]):.2f} of a client, {before:.2f} of the server,")
print(f"and {reference:.2f} of the server in training mode\n")

diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
