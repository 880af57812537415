"""Small networks that ask normwise's layers for activations and additions; at the top of a module, to be pickled.

The module knows normwise only where one of its networks is built, so that it can be imported where normwise cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[..., nn.Module]


class Block(nn.Module):
    """The layers do all that follows them: an activation, an addition before one, an addition alone."""

    def __init__(self, norm: Norm, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.bn1 = norm(channels, activation="silu")
        self.bn2 = norm(channels, activation="relu")
        self.bn3 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.bn1(self.conv(x)), x)
        return self.bn3(y, residual=y)  # type: ignore[no-any-return]  # modules are called untyped

    def parts(self) -> int:
        return len([*self.children()])


class Deep(nn.Module):
    """A layer that is called by its place in a list, and one that is called twice."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1), norm(3, activation="gelu"))
        self.norms = nn.ModuleList([norm(3, activation="tanh"), norm(3)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.features[1](self.features[0](x))
        return self.norms[1](self.norms[0](self.norms[0](y)))  # type: ignore[no-any-return]  # as above


class Dropping(nn.Module):
    """Another forward in training than in inference."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(3, activation="elu")

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.norm(x), 0.25, training=self.training)


class Switching(nn.Module):
    """Another forward in training than in inference, and not by dropout."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(3, activation="elu")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return 2 * y if self.training else y


class Optional(nn.Module):
    """A forward that torch.fx cannot follow, around a part that it can."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(3, activation="relu")
        self.added = norm(3)
        self.plain = norm(3)
        self.block = Block(norm)

    def forward(self, x: Tensor, again: bool = False) -> Tensor:
        x = self.block(self.plain(self.norm(x)))
        return self.added(x, x) if again else x


class Masking(nn.Module):
    """A layer that is called with what torch.nn's does not take."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x, mask=x[:, 0] > 0)  # type: ignore[no-any-return]  # as above


def batch_norm() -> Norm:
    from normwise.torch import BatchNorm2d

    return BatchNorm2d


def in_order() -> nn.Module:
    norm = batch_norm()
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), norm(4, activation="leaky_relu"))
    return nn.Sequential(nn.Conv2d(3, 4, 1), norm(4, activation="relu"), inner, norm(4), nn.Conv2d(4, 2, 1))


def with_a_place() -> nn.Module:
    norm = batch_norm()
    return nn.Sequential(nn.Conv2d(3, 4, 1), norm(4, activation="mish"), nn.Identity(), nn.Conv2d(4, 2, 1))


def of_samples() -> nn.Module:
    """Norms of other kinds, with activations."""
    from normwise import torch as nt

    group, layer = nt.GroupNorm(2, 4, activation="relu6"), nt.LayerNorm([4, 8, 8], activation="sigmoid")
    instance = nt.InstanceNorm2d(4, affine=True, track_running_stats=True, activation="hardswish")
    return nn.Sequential(nn.Conv2d(3, 4, 1), group, layer, instance, nn.Conv2d(4, 2, 1))


def blocks() -> nn.Module:
    return nn.Sequential(Block(batch_norm()), Deep(batch_norm()), Block(partial(batch_norm(), momentum=0.3)))


def one_block() -> nn.Module:
    return Block(batch_norm())


def dropping() -> nn.Module:
    return nn.Sequential(Dropping(batch_norm()), nn.Conv2d(3, 3, 1))


def switching() -> nn.Module:
    return nn.Sequential(Switching(batch_norm()), nn.Conv2d(3, 3, 1))


def images(seed: int, dtype: torch.dtype = torch.float64, samples: int = 6) -> Any:
    return torch.randn((samples, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=dtype)
