"""The layers that leave their activation to whoever calls them: in one thread, as long as one call lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from normwise.kernels.torch_activations import activate


class _Left(threading.local):
    """The layers of each thread. ``torch.compile`` sees through it, as it does not through a ``ContextVar``."""

    layers: tuple[nn.Module, ...] = ()


LEFT = _Left()


def without_activation(layers: Iterable[nn.Module], run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call in which these layers normalize only.

    The layers stay as they are, so that other threads that use them meanwhile find their activation.

    Args:
        layers: of normwise; others do what they always do.
        run: is called.
        args: with these arguments.
        kwargs: and these.

    Example:
        >>> import torch
        >>> from normwise.torch import BatchNorm1d
        >>> layer = BatchNorm1d(1, activation="relu").eval()
        >>> without_activation([layer], layer, torch.tensor([[-1.0]])) < 0, layer(torch.tensor([[-1.0]])) < 0
        (tensor([[True]]), tensor([[False]]))
    """
    before = LEFT.layers
    LEFT.layers = (*before, *layers)
    try:
        return run(*args, **kwargs)
    finally:
        LEFT.layers = before


def with_activation(layers: Iterable[nn.Module], run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same inside of such a call, where these layers do their activation again."""
    before = LEFT.layers
    again = [*layers]
    LEFT.layers = tuple(each for each in before if not any(each is layer for layer in again))
    try:
        return run(*args, **kwargs)
    finally:
        LEFT.layers = before


def activation_now(layer: Any) -> str | None:
    """The activation that a layer does if it is called here and now."""
    activation: str | None = layer.activation
    if activation is not None and (left := LEFT.layers) and any(each is layer for each in left):
        return None
    return activation


def is_larger(layer: Any, input: Tensor, residual: Tensor) -> bool:
    """True for a residual of another shape than the input's, at a layer to which ``fuse`` has given an addition.

    As ``fuse`` writes calls, what is smaller was expanded, so that only what is larger is left. A layer to which a
    user gives such a residual refuses it.
    """
    return bool(layer._fused) and residual.shape != input.shape


def added_late(layer: Any, input: Tensor, residual: Any, **named: Any) -> Tensor:
    """The layer's output where the residual is larger than it: added and activated behind the normalization.

    Args:
        layer: of normwise.
        input: its input.
        residual: what is added.
        named: the other arguments of its forward.
    """
    activation = activation_now(layer)
    y: Tensor = without_activation((layer,), layer.forward, input, **named)
    return activate(y + residual, activation, None)
