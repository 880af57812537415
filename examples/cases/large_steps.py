"""The loss in training falls smoothly, and the accuracy in evaluation jumps from epoch to epoch in a residual network.

Source: https://arxiv.org/abs/2105.07576 (section 3), and https://github.com/open-mmlab/mmaction2/pull/501, which adds
a pass that estimates the statistics once more before each evaluation.

Steps are large, so that the weights have moved on when the running averages of the last batches are used. No layer is
far off by itself; in a residual network every block adds its own small error to what all blocks before it have added.
"""

import torch
from digits import accuracy, cross_entropy, epochs, evaluate, held_out, in_batches, train
from torch import nn

import normwise


class Block(nn.Module):
    """Adds to x what two convolutions, each behind batch norm and ReLU, make of it."""

    def __init__(self, width):
        super().__init__()
        layers = [
            [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)] for _ in range(2)
        ]
        self.inner = nn.Sequential(*layers[0], *layers[1])

    def forward(self, x):
        return x + self.inner(x)


def residual(width=16, blocks=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False),
        *[Block(width) for _ in range(blocks)], nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, 10),
    )  # fmt: skip


model = epochs(residual(), number=3, rate=0.3)
with normwise.paused_statistics(model):
    reference = evaluate(model.train())
before = evaluate(model.eval())
print(
    f"accuracy on held-out digits: {reference:.2f} with the statistics of each batch, {before:.2f} after model.eval()\n"
)

batches = in_batches(held_out, size=33)
diagnosis = normwise.examine(model, batches, loss=cross_entropy, metric=accuracy)
print(diagnosis)

batches = in_batches(train)
exec(diagnosis.findings[0].remedy)
after = evaluate(model)
print(f"\nwith the remedy: {after:.2f}")
