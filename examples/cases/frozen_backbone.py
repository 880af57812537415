"""A backbone is frozen by requires_grad = False, and is another one after the fine-tuning of a head.

Source: "Easy way to 'freeze' BatchNorm running_mean/running_var", https://github.com/pytorch/pytorch/issues/86590
("people don't know that their feature extractor is not entirely frozen")

Only scale and shift are frozen by that. A head is tuned on faint negatives of the digits, and the old task is lost.
"""

import copy

import torch
from digits import accuracy, cross_entropy, epochs, evaluate, held_out, in_batches, network, train

import normwise

model = epochs(network())
for part in model[:-1]:
    part.requires_grad_(False)
reference = evaluate(copy.deepcopy(model).eval())
batches = in_batches((1 - 0.5 * train[0], train[1]))


def fine_tuned(model):
    """Tune the head of a copy, and give it the old head back."""
    tuned = epochs(copy.deepcopy(model), 1, batches=batches)
    tuned[-1] = model[-1]
    return tuned.eval()


def step(model, batch):
    cross_entropy(model(batch[0]), batch[1]).backward()
    torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.03).step()


before = evaluate(fine_tuned(model))
print(f"accuracy in the old task: {reference:.2f}, after a fine-tuning of the head {before:.2f}\n")

diagnosis = normwise.examine(model, in_batches(held_out), loss=cross_entropy, metric=accuracy, train_step=step)
print(diagnosis)

exec(diagnosis.findings[0].remedy)
after = evaluate(fine_tuned(model))
print(f"\nwith the remedy: {after:.2f}")
