"""The average of the weights is far worse than the last weights, because its statistics are not an average of anything.

Source: https://github.com/huggingface/pytorch-image-models/issues/245 (53.0 beside 77.9 for the raw model), and
https://github.com/pytorch/ignite/issues/2590

The average of weights has seen no data. AveragedModel gives it the running statistics of the last weights.
"""

import copy

from digits import accuracy, cross_entropy, epochs, evaluate, held_out, in_batches, network
from torch.optim.swa_utils import AveragedModel

import normwise

raw = epochs(network(), 1)
model = AveragedModel(raw)
epochs(
    raw, 3, rate=0.5, after_step=lambda: model.update_parameters(raw)
)  # the weights jump about, and their mean is good

reference = evaluate(copy.deepcopy(model).train())
before = evaluate(model.eval())
print(f"accuracy on held-out digits: {evaluate(raw.eval()):.2f} with the last weights, {before:.2f} with the average,")
print(f"and {reference:.2f} with the average in training mode\n")

batches = in_batches(held_out)
diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
