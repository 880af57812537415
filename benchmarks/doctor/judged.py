"""The architectures of the judging run: development looks at none of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def tapered() -> nn.Module:
    """Linear layers that grow narrower, with norms in front of two kinds of activations."""
    return nn.Sequential(
        nn.Linear(64, 80), nn.BatchNorm1d(80), nn.SiLU(), nn.Linear(80, 56), nn.BatchNorm1d(56), nn.SiLU(),
        nn.Linear(56, 32), nn.BatchNorm1d(32), nn.ELU(), nn.Linear(32, 10),
    )  # fmt: skip


def pooled() -> nn.Module:
    """A convolution of five by five, one of three by three and one of a single place, with averages between them."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 5, padding=2, bias=False), nn.BatchNorm2d(16), nn.ELU(),
        nn.AvgPool2d(2), nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ELU(),
        nn.Conv2d(24, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ELU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(64, 48, bias=False), nn.BatchNorm1d(48), nn.ELU(), nn.Linear(48, 10),
    )  # fmt: skip


class Bottleneck(nn.Module):
    """Narrow, three by three, wide again, beside a short cut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        found: Tensor = (x + self.bn3(self.conv3(inner))).relu()
        return found


def bottlenecks() -> nn.Module:
    """Two residual blocks that are narrow inside."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        Bottleneck(16, 10), nn.AvgPool2d(2), Bottleneck(16, 10), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


class Columns(nn.Module):
    """The columns of the image as a sequence of eight places with eight features; convolutions in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(8, 24, 3, padding=1, bias=False), nn.BatchNorm1d(24), nn.GELU())
        self.second = nn.Sequential(
            nn.Conv1d(24, 24, 3, stride=2, padding=1, groups=4, bias=False), nn.BatchNorm1d(24), nn.GELU()
        )
        self.third = nn.Sequential(nn.Conv1d(24, 32, 1, bias=False), nn.BatchNorm1d(32), nn.GELU())
        self.out = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.reshape(-1, 8, 8).transpose(1, 2))
        found: Tensor = self.out(self.third(self.second(x)).flatten(1))
        return found


KINDS: dict[str, Callable[[], nn.Module]] = {
    "tapered": tapered, "pooled": pooled, "bottlenecks": bottlenecks, "columns": Columns,
}  # fmt: skip
