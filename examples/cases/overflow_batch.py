"""One batch with an overflow, which the gradient scaler skips, and the running statistics are NaN for ever.

Source: "Mixed precision training fails due to NaN in batch norm running_mean",
https://github.com/pytorch/pytorch/issues/88474

The scaler skips the step of the optimizer, but the forward has written into the buffers already. Training goes on as
if nothing had happened, because it does not read them.
"""

import copy

import torch
from digits import accuracy, cross_entropy, epochs, evaluate, held_out, in_batches, network

import normwise

model = epochs(network(), 2)
with torch.no_grad():
    x = torch.rand(64, 64)
    x[0] = torch.inf  # an overflow: no step follows
    model(x)
epochs(model, 1)

reference = evaluate(copy.deepcopy(model).train())
before = evaluate(model.eval())
print(f"accuracy on held-out digits: {reference:.2f} in training mode, {before:.2f} after model.eval()\n")

batches = in_batches(held_out)
diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
