"""The loader gives one class after the other, and after model.eval() the model knows the last ones only.

Source: the comments on windows that follow each other in https://github.com/pytorch/pytorch/issues/4741, and
https://github.com/SimKarras/Amend-Representation-Module/issues/17

The running statistics remember some 19 batches. Here, the data are sorted when the statistics are gathered once more
before the model is saved, with a loader that does not shuffle.
"""

import torch
from digits import accuracy, cross_entropy, epochs, evaluate, network, train

import normwise

model = epochs(network())
reference = evaluate(model.eval())

by_class = train[1][:1000].argsort(stable=True)
dataset = torch.utils.data.TensorDataset(train[0][by_class], train[1][by_class])
batches = torch.utils.data.DataLoader(dataset, batch_size=16)
with torch.no_grad():
    for x, _ in batches:
        model.train()(x)
before = evaluate(model.eval())
print(f"accuracy on held-out digits: {reference:.2f}, and {before:.2f} after a pass over the sorted data\n")

diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
