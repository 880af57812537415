"""Handwritten digits in batches, a small network, and the numbers that users look at."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images, labels = images.float() / 16, labels.long()
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
images, labels = images[order], labels[order]
train, held_out = (images[:1400], labels[:1400]), (images[1400:1796], labels[1400:1796])


def in_batches(data, size=64):
    return list(zip(*(part.split(size) for part in data), strict=True))


def network(**settings):
    """Batch norms at 2, 5 and 9."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, **settings),
        nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32, **settings), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64, bias=False), nn.BatchNorm1d(64, **settings), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def epochs(model, number=3, rate=0.03, batches=None, after_step=lambda: None):
    """Train as usual."""
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], rate, momentum=0.9)
    for _ in range(number):
        for x, y in batches or in_batches(train):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            after_step()
    return model


def accuracy(outputs, targets):
    return (outputs.argmax(1) == targets).float().mean()


@torch.no_grad()
def evaluate(model, data=held_out, size=64):
    """The share of right answers, in the mode that the model is in and over all batches."""
    right = [(model(x).argmax(1) == y).sum().item() for x, y in in_batches(data, size)]
    return sum(right) / len(data[0])
