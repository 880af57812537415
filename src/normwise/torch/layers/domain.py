"""The domain that the data come from, chosen by a block around the forward."""

from __future__ import annotations

import threading
from collections.abc import Mapping


class _Chosen(threading.local):
    """The domain chosen in each thread. ``torch.compile`` sees through it, as it does not through a ``ContextVar``."""

    domain: str | None = None
    # By the id of a layer: what the block chose that is innermost for it. Never changed in place.
    layers: Mapping[int, str] = {}


CHOSEN = _Chosen()


class domain:  # it is used as a function is
    """Whatever runs inside the block is of this domain: every ``PerDomain`` layer takes that set of statistics.

    For operations that are given a domain; ``normwise.torch.domain`` chooses it for the layers of one model. It holds
    in this thread only, and blocks of both may be inside one another.

    Args:
        name: the domain; a layer that does not know it says so when it is reached.

    Raises:
        TypeError: the name is not a string.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from normwise.torch.layers.per_domain import PerDomain
        >>> layer = PerDomain(nn.BatchNorm1d(1), ["day", "night"])
        >>> with domain("night"):
        ...     _ = layer(torch.tensor([[1.0], [3.0]]))
        >>> layer.of("day").running_mean, layer.of("night").running_mean
        (tensor([0.]), tensor([0.2000]))
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a domain is a name, received {type(name).__name__}: pass for example 'night'.")
        self.name = name
        self.before: list[tuple[str | None, Mapping[int, str]]] = []

    def __enter__(self) -> None:
        self.before.append((CHOSEN.domain, CHOSEN.layers))
        CHOSEN.domain, CHOSEN.layers = self.name, {}

    def __exit__(self, *_: object) -> None:
        CHOSEN.domain, CHOSEN.layers = self.before.pop()
