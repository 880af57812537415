"""Every layer that ``normwise.torch`` exports, found by listing, with settings that make it and an input for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import normwise.torch as nt

C = 4
"""The number of channels of every layer here."""
AXES = {"1d": (8, C, 5), "2d": (8, C, 3, 5), "3d": (8, C, 2, 3, 5)}


class Case(NamedTuple):
    """One layer: ``make()`` builds it, ``shape`` is that of an input, ``tracks`` whether it keeps statistics."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tracks: bool

    def input(self, seed: int = 0) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def exported() -> dict[str, type[nn.Module]]:
    """The classes of layers, by name."""
    found = {name: getattr(nt, name) for name in nt.__all__}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, nn.Module)}


def cases() -> Iterator[tuple[str, Case]]:
    """All of them, those with choices with each that adds a tensor."""
    for name, kind in exported().items():
        end = re.search(r"\dd$", name)
        shape = AXES[end.group()] if end else AXES["2d"]
        lazy, tracks = name.startswith("Lazy"), "Norm" in name and name not in ("GroupNorm", "LayerNorm")
        settings: dict[str, Any] = {}
        if name.startswith("Ghost"):
            settings = {"num_splits": 2}
        elif name.startswith("InstanceNorm"):
            settings = {"affine": True, "track_running_stats": True}
        first: tuple[Any, ...] = () if lazy else (2, C) if name == "GroupNorm" else (C,)
        if name == "LayerNorm":
            first = (shape[1:],)
        if name == "PerDomain":
            for inner in ("BatchNorm2d", "BatchRenorm2d", "IterativeNorm2d"):
                yield f"PerDomain of {inner}", Case(_per_domain(getattr(nt, inner)), AXES["2d"], True)
            continue
        yield name, Case(_maker(kind, first, settings), shape, tracks)
        if tracks and "Instance" not in name and not name.endswith(("1d", "3d")):
            yield f"{name}, pooled", Case(_maker(kind, first, {**settings, "estimator": "pooled"}), shape, True)


def _maker(kind: type[nn.Module], first: tuple[Any, ...], settings: dict[str, Any]) -> Callable[[], nn.Module]:
    return lambda: kind(*first, **settings)


def _per_domain(kind: type[nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nt.PerDomain(kind(C), ["day", "night"], default="night")


CASES = dict(cases())
