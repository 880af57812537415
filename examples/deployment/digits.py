"""The network that the other scripts deploy, trained for a moment on real handwritten digits, and their comparison."""

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from normwise.torch import BatchNorm2d

digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
train, test = images[:1440], images[1440:]


def trained() -> nn.Module:
    """The trained network in eval mode: the running statistics normalize from here on."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        BatchNorm2d(16, activation="relu"),
        nn.Conv2d(16, 32, 3, stride=2, bias=False),
        BatchNorm2d(32, activation="relu"),
        nn.Flatten(),
        nn.Linear(32 * 9, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for chosen in [*torch.randperm(len(train)).split(64)] * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(train[chosen]), labels[chosen]).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def compare(network: nn.Module, deployed: Callable[[torch.Tensor], Any]) -> None:
    """Print the largest difference between the answers of the two, in batches of 8 and of 1."""
    for size in (8, 1):
        batch = test[:size]
        difference = (torch.as_tensor(deployed(batch)) - network(batch)).abs().max()
        print(f"batch of {size}: the answers differ by at most {difference:.1e}")
