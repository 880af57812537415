"""A model was ported from Keras with its momentum of 0.99, and evaluation jumps from epoch to epoch.

Source: "MaxVIT Model - BatchNorm momentum is incorrect", https://github.com/pytorch/vision/issues/8250, and
https://github.com/huggingface/transformers/pull/19454

Keras counts the weight of what there is, PyTorch that of the new batch. So 0.99 makes the statistics those of the last
batch, here one of four digits.
"""

import copy

from digits import accuracy, cross_entropy, epochs, evaluate, held_out, in_batches, network, train

import normwise

model = epochs(network(momentum=0.99), 1, batches=in_batches(train, 4), rate=0.02)

reference = evaluate(copy.deepcopy(model).train())
before = evaluate(model.eval())
print(f"accuracy on held-out digits: {reference:.2f} in training mode, {before:.2f} after model.eval()\n")

batches = in_batches(held_out)
diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
