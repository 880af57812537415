"""Checks of the arguments of whitening layers, beyond those of batch norm."""

from __future__ import annotations

from torch import Tensor


def check_shared(weights: Tensor | None) -> None:
    """Refuse a mask or weights that differ between the channels of a position.

    Raises:
        ValueError: they do.
    """
    if weights is not None and weights.shape[1] > 1:
        raise ValueError(
            "whitening needs a mask and weights that all channels of a position share, received "
            f"{tuple(weights.shape)}: take for example mask.all(1, keepdim=True)."
        )


def size_of_groups(channels: int, group_size: int) -> int:
    """The size, at most that of the layer; refuse one that does not divide it.

    Example:
        >>> size_of_groups(48, 64), size_of_groups(128, 64)
        (48, 64)
    """
    if not isinstance(group_size, int) or isinstance(group_size, bool):
        raise TypeError(
            f"group_size must be a whole number, received {type(group_size).__name__}: pass for example 64."
        )
    if group_size < 1:
        raise ValueError(f"group_size must be 1 or more, received {group_size}: pass for example 64.")
    size = min(group_size, channels)
    if size and channels % size:
        nearest = max(divisor for divisor in range(1, size + 1) if channels % divisor == 0)
        raise ValueError(
            f"group_size must divide the number of channels, {channels}, received {group_size}: "
            f"pass for example {nearest}, the largest below it that does."
        )
    return size
