"""A good network gives garbage after model.eval(), because a forward in between was no training.

Source: "Using model.eval() with batchnorm gives high error", https://github.com/pytorch/pytorch/issues/4741, and
"What does model.eval() do for batchnorm layer?", https://discuss.pytorch.org/t/what-does-model-eval-do-for-batchnorm-layer/7146
(76 % in training mode, 10 % after model.eval()).

Here, the network is fed with noise of its input's shape to warm up and to count its operations, still in training mode.
"""

import copy

import torch
from digits import accuracy, cross_entropy, epochs, evaluate, held_out, in_batches, network

import normwise

model = epochs(network())
for _ in range(40):
    model(3 * torch.randn(64, 64))  # to measure the speed: every such forward moves the running statistics

reference = evaluate(copy.deepcopy(model).train())
before = evaluate(model.eval())
print(f"accuracy on held-out digits: {reference:.2f} in training mode, {before:.2f} after model.eval()\n")

batches = in_batches(held_out)
diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
