"""The accuracy in the test depends on how many samples, and which, are tested together.

Source: https://github.com/yaodongyu/TRADES/issues/3 (the accuracy changed with the batch size), and
https://github.com/gogyzzz/localatt_emorecog/issues/2 (0.536 with a batch size of 1, 0.921 with 64)

A layer without running statistics normalizes by the batch at inference, too.
"""

import torch
from digits import accuracy, cross_entropy, epochs, evaluate, held_out, in_batches, network

import normwise

model = network()
model[9] = torch.nn.BatchNorm1d(64, track_running_stats=False)
epochs(model).eval()

reference = evaluate(model, size=64)
before = evaluate(model, size=2)
print(f"accuracy on held-out digits: {reference:.2f} in batches of 64, {before:.2f} in twos\n")

batches = in_batches(held_out)
diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model, size=2)
print(f"\nwith the remedy: {after:.2f}")
