"""Masks along the input of a layer: which of its axes those of a mask are, and how many values count."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

Shape = tuple[int | None, ...]


def along_input(mask: Any, inputs: Any, axis: int) -> Any:
    """The mask as booleans with the axes of the input, 1 in place of those along which it does not differ.

    Args:
        mask: one entry per position, that is the input's shape without its channels; or, as Keras's ``Masking`` makes
            it, without its last axis; or with all axes. Any axis may be 1. Where the first two fit, it is the first.
        inputs: any rank.
        axis: of the channels.

    Raises:
        ValueError: it fits in none of these ways.

    Example:
        >>> mask = ops.convert_to_tensor([[True, False]])
        >>> along_input(mask, ops.ones((1, 3, 2)), 1).shape == (1, 1, 2)
        True
    """
    shape, given = tuple(inputs.shape), tuple(mask.shape)
    channels = axis % len(shape)
    if len(given) == len(shape) - 1:
        for missing in (channels, len(shape) - 1):
            if _fits(given, (*shape[:missing], *shape[missing + 1 :])):
                return ops.cast(ops.expand_dims(mask, missing), "bool")
    elif len(given) == len(shape) and _fits(given, shape):
        return ops.cast(mask, "bool")
    positions = (*shape[:channels], *shape[channels + 1 :])
    # The first words are Keras's own.
    raise ValueError(
        f"The mask provided should be one dimension less than the inputs. Received: mask.shape={given}, "
        f"inputs.shape={shape}: pass one entry per position, of shape {positions}, in which any axis may be 1."
    )


def _fits(mask: Shape, inputs: Shape) -> bool:
    return all(mine is None or theirs is None or mine in (1, theirs) for mine, theirs in zip(mask, inputs, strict=True))


def without_channels(inputs: Any, axis: int) -> tuple[int, ...]:
    """The axes over which moments are taken."""
    channels = axis % len(inputs.shape)
    return tuple(index for index in range(len(inputs.shape)) if index != channels)


def values_per_channel(inputs: Any, axis: int) -> Any:
    """The number of values per channel: a whole number, or a tensor where the shape is not known yet."""
    count: Any = 1
    shape = ops.shape(inputs)
    for index in without_channels(inputs, axis):
        count = count * shape[index]
    return count if isinstance(count, int) else ops.cast(count, "float32")


def fewest_values_per_channel(inputs: Any, axis: int) -> int:
    """The number of values per channel that is known to be there in any batch that is not empty.

    A length that is not known yet counts as 1; lengths that are neither, as PyTorch's symbolic ones, make it 0.

    Example:
        >>> fewest_values_per_channel(ops.ones((3, 2, 5)), -1)
        6
    """
    known = [1 if inputs.shape[index] is None else inputs.shape[index] for index in without_channels(inputs, axis)]
    return math.prod(known) if all(isinstance(size, int) for size in known) else 0
