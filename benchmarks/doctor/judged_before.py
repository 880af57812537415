"""The architectures of an earlier judging: its results were looked at, so that they are development's now."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def wide() -> nn.Module:
    """Linear layers with norms in front of the activations, wide and then narrow, and another activation."""
    return nn.Sequential(
        nn.Linear(64, 96), nn.BatchNorm1d(96), nn.GELU(), nn.Linear(96, 40), nn.BatchNorm1d(40), nn.GELU(),
        nn.Linear(40, 40), nn.BatchNorm1d(40), nn.GELU(), nn.Linear(40, 24), nn.BatchNorm1d(24), nn.GELU(),
        nn.Linear(24, 10),
    )  # fmt: skip


def stacked() -> nn.Module:
    """Pairs of convolutions with pooling between them."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
        nn.Conv2d(10, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(10, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(80, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


class Down(nn.Module):
    """A residual block that halves the image, with a norm on its short cut as well."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Sequential(nn.Conv2d(channels, out, 1, 2, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(nn.functional.leaky_relu(self.bn1(self.conv1(x)), 0.1)))
        found: Tensor = nn.functional.leaky_relu(inner + self.short(x), 0.1)
        return found


def shortcuts() -> nn.Module:
    """Residual blocks that halve the image."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.1),
        Down(8, 16), Down(16, 24), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


class Rows(nn.Module):
    """The rows of the image as a sequence of eight places with eight features; dilated convolutions along it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(8, 20, 3, padding=1, bias=False), nn.BatchNorm1d(20), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv1d(20, 20, 3, padding=2, dilation=2, bias=False), nn.BatchNorm1d(20), nn.ReLU()
        )
        self.third = nn.Sequential(nn.Conv1d(20, 16, 1, bias=False), nn.BatchNorm1d(16), nn.ReLU())
        self.out = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(-1, 8, 8))
        found: Tensor = self.out(self.third(x + self.second(x)).flatten(1))
        return found


KINDS: dict[str, Callable[[], nn.Module]] = {
    "wide": wide, "stacked": stacked, "shortcuts": shortcuts, "rows": Rows,
}  # fmt: skip
