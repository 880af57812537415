"""A small residual network on handwritten digits, for `normwise lab compare examples/compare_torch.py:net`."""

from sklearn.datasets import load_digits
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


def net():
    """A new model at each call."""
    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, Block(16), nn.MaxPool2d(2), Block(16), nn.Flatten(), nn.Linear(256, 10))


def rows():
    """Inputs and targets: whole numbers are classes."""
    data = load_digits()
    return (data.images[:, None] / 16).astype("float32"), data.target
