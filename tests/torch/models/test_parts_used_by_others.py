"""Modules of which others use a part by itself: no operation takes what their own forward does for all that happens."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise.torch as nt
from normwise.torch.models.conversion.fold import fold
from normwise.torch.models.conversion.swap import swap
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.models.test_swap import prepared


class Encoder(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), norm(3), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class Around(nn.Module):
    """A module whose forward cannot be followed."""

    encoder: Any
    encoders: Any

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.encoders = encoder, nn.ModuleList([copy.deepcopy(encoder)])

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.parts(x * 2 if x.sum() > 1e9 else x)

    def parts(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError


class ByName(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        found = [self.encoder.conv(x)]
        found.append(self.encoder.norm(found[-1]))
        return found


class ByAnotherName(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        encoder = self.encoder
        y = encoder.conv(x)
        return [y, encoder.norm(y)]


class InALoop(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        found = []
        for encoder in self.encoders:
            y = encoder.conv(x)
            found += [y, encoder.norm(y)]
        return found


class EachChild(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        found = []
        for child in self.encoder.children():
            x = child(x)
            found.append(x)
        return found


class ByAttribute(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        found = []
        for name in ("conv", "norm", "act"):
            x = getattr(self.encoder, name)(x)
            found.append(x)
        return found


class HandedOn(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        return one_by_one(self.encoder, x)


class ItsWeight(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        return [self.encoder(x), F.conv2d(x, self.encoder.conv.weight)]


class Optional(Around):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        return self.parts(x, mask)

    def parts(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        y = self.encoder.conv(x)
        return [y, self.encoder.norm(y if mask is None else y * mask)]


class NoForward(Around):
    forward: Any = nn.Module.forward

    def parts(self, x: Tensor) -> list[Tensor]:
        y = self.encoder.conv(x)
        return [y, self.encoder.norm(y)]


class InAMethod(Around):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.encoder(x)]

    def parts(self, x: Tensor) -> list[Tensor]:
        y = self.encoder.conv(x)
        return [y, self.encoder.norm(y)]


def one_by_one(encoder: nn.Module, x: Tensor) -> list[Tensor]:
    found = []
    for child in encoder.children():
        x = child(x)
        found.append(x)
    return found


KINDS = [
    ByName, ByAnotherName, InALoop, EachChild, ByAttribute, HandedOn, ItsWeight, Optional, NoForward, InAMethod,
]  # fmt: skip


def sequence() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.GELU())


@pytest.mark.parametrize("operation", [fuse, fold, swap])
@pytest.mark.parametrize("kind", KINDS)
def test_what_others_take_out_of_a_module_stays_the_same(kind: type[Around], operation: Callable[[Any], Any]) -> None:
    ours = prepared(lambda: kind(Encoder())).eval()
    if operation is swap:
        fuse(ours.encoder)
        fuse(ours.encoders[0])
    theirs = copy.deepcopy(ours)
    operation(ours)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours.parts(x), theirs.parts(x))
    if kind is not NoForward:
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("operation", [fuse, fold])
@pytest.mark.parametrize("kind", [EachChild, HandedOn])
def test_so_do_the_items_of_a_sequence(kind: type[Around], operation: Callable[[Any], Any]) -> None:
    for encoder in (sequence(), nn.Sequential(sequence())):
        ours = prepared(partial(kind, encoder)).eval()
        theirs = copy.deepcopy(ours)
        operation(ours)
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x))


class Whole(Around):
    def parts(self, x: Tensor) -> list[Tensor]:
        for encoder in self.encoders:
            x = encoder(x)
        return [self.encoder(x)] if x.sum() > 0 else [x]


def test_what_is_only_called_is_fused_and_folded_within_a_forward_that_cannot_be_followed() -> None:
    assert fuse(Whole(Encoder())).fused == {"encoder.norm": "gelu", "encoders.0.norm": "gelu"}
    assert list(fold(Whole(Encoder()).eval()).folded) == ["encoder.norm", "encoders.0.norm"]


def test_a_report_says_who_uses_what() -> None:
    model = ByName(Encoder())
    assert fuse(model).left == {
        "encoder.norm": "encoder is not only called: the model (ByName) calls what is inside of it"
    }
    assert fuse(InAMethod(Encoder())).left["encoder.norm"] == (
        "encoder is not only called: the model (InAMethod) calls what is inside of it, in its method parts"
    )


class Methods(Encoder):
    """Helpers that a user calls too."""

    def features(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.conv(x)))

    def before(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))


class Calling(Methods):
    """A helper that needs the layer with its activation and without it."""

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(self.conv(x)), self(x)


class OnlyTheActivation(Encoder):
    def activated(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(x)
        return y


CALLED: list[tuple[type[Encoder], tuple[str, ...]]] = [
    (Methods, ("features", "before")),
    (Calling, ("features", "before", "both")),
    (OnlyTheActivation, ("activated",)),
]


@pytest.mark.parametrize(("kind", "names"), CALLED)
def test_other_methods_of_a_fused_module_do_what_they_did(kind: type[Encoder], names: tuple[str, ...]) -> None:
    ours = prepared(kind)
    theirs = copy.deepcopy(ours)
    fuse(ours)
    for model in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        for name in ("forward", *names):
            x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
            torch.testing.assert_close(getattr(model.eval(), name)(x), getattr(theirs.eval(), name)(x))
    swap(ours)
    assert type(ours) is kind
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


class OursInMethods(Encoder):
    def __init__(self) -> None:
        super().__init__(lambda channels: nt.BatchNorm2d(channels, activation="silu"))

    def features(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))


def test_a_method_that_would_lack_the_activation_after_a_swap_is_an_error() -> None:
    ours = prepared(OursInMethods).eval()
    theirs = copy.deepcopy(ours)
    words = swap(ours).swapped["norm"].words
    assert words == (
        "silu behind it in the forward of the model (OursInMethods), as norm_activation, and not in its method "
        "features, which is an error now"
    )
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    with pytest.raises(RuntimeError, match="features of this OursInMethods calls layers that do less since `swap`"):
        ours.features(x)
