"""Images that are changed to lower a network's accuracy, at random or knowing its gradient."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from normwise.lab.data.splits import Split
from normwise.lab.networks.dense import Dense


def noisy(data: Split, size: float, seed: int) -> Split:
    """The images with normal noise of a standard deviation, the same for all networks."""
    noise = torch.randn(data.images.shape, generator=torch.Generator().manual_seed(seed))
    return Split(data.images + size * noise, data.labels, data.rows)


def moved(model: Dense, data: Split, size: float) -> Split:
    """Every pixel moved by ``size`` in the direction that raises the loss, in inference mode; still between 0 and 1."""
    model.eval()
    images = data.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(images), data.labels, reduction="sum"), images)
    return Split((data.images + size * slope.sign()).clamp(0, 1), data.labels, data.rows)
