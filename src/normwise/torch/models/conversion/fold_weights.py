"""The affine map that a batch norm is in inference, and how a layer in front of it or behind it takes it over.

Everything is worked out in float64 and rounded once, to the dtype of the parameter that it goes into.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


class Affine(NamedTuple):
    """``scale * x + shift`` for each channel, in float64."""

    scale: Tensor
    shift: Tensor


class Changed(NamedTuple):
    """A layer's parameters with an affine map in them."""

    weight: Tensor
    bias: Tensor


def affine_of(norm: Any, now: Changed) -> Affine:
    """The affine map that a batch norm with running statistics computes.

    Args:
        norm: the layer.
        now: its parameters.

    Example:
        >>> layer = nn.BatchNorm1d(1, eps=0.0)
        >>> scale, shift = affine_of(layer, parameters_of(layer))
        >>> scale.item(), shift.item()
        (1.0, 0.0)
    """
    mean, var = wide(norm.running_mean), wide(norm.running_var)
    scale = now.weight * (var + norm.eps).rsqrt()
    return Affine(scale, now.bias - mean * scale)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float64; on the CPU where the device has none."""
    return tensor.detach().to("cpu" if tensor.device.type == "mps" else tensor.device, torch.float64)


def channels_out(layer: Any) -> int:
    """The number of channels that come out of a layer that takes over the batch norm behind it."""
    sizes = {"out_channels", "out_features", "num_features"} & vars(layer).keys()
    return int(getattr(layer, sizes.pop()))


def channels_in(layer: Any) -> int:
    """The number of channels that come into a layer that takes over the batch norm in front of it."""
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def parameters_of(layer: Any) -> Changed:
    """The layer's own, where it has none those that change nothing."""
    channels = channels_out(layer)
    device = next(tensor.device for tensor in (*layer.parameters(), *layer.buffers()))
    plain = torch.zeros(channels, dtype=torch.float64, device=device)
    weight = plain + 1 if layer.weight is None else wide(layer.weight)
    return Changed(weight, plain.to(weight.device) if layer.bias is None else wide(layer.bias))


def behind(layer: Any, now: Changed, affine: Affine) -> Changed:
    """The layer's parameters where the affine map follows it.

    Args:
        layer: one of ``LINEAR``, or a batch norm.
        now: its parameters.
        affine: of as many channels as come out of it.
    """
    scale, shift = affine
    bias = shift + now.bias * scale
    if isinstance(layer, TRANSPOSED):  # (in, out / groups, ...)
        parts = now.weight.unflatten(0, (layer.groups, -1))
        return Changed((parts * _spread(scale.view(layer.groups, 1, -1), parts.dim())).flatten(0, 1), bias)
    return Changed(now.weight * _spread(scale, now.weight.dim()), bias)


def in_front(layer: Any, now: Changed, affine: Affine) -> Changed:
    """The layer's parameters where the affine map comes before it, which ``why_not_behind`` allows.

    Args:
        layer: one of ``LINEAR``.
        now: its parameters.
        affine: of as many channels as come into it.
    """
    scale, shift = affine
    weight, bias = now
    if isinstance(layer, nn.Linear):
        return Changed(weight * scale, bias + weight @ shift)
    parts = weight.unflatten(0, (layer.groups, -1))
    if isinstance(layer, TRANSPOSED):  # (groups, in / groups, out / groups, ...)
        by_group = [_spread(each.view(layer.groups, -1), parts.dim()) for each in (scale, shift)]
        # With more than one tap only a shift of 0 comes here.
        moved = (parts * by_group[1]).flatten(3).sum((1, 3))
    else:  # (groups, out / groups, in / groups, ...)
        by_group = [_spread(each.view(layer.groups, 1, -1), parts.dim()) for each in (scale, shift)]
        moved = (parts * by_group[1]).flatten(2).sum(2)
    return Changed((parts * by_group[0]).flatten(0, 1), bias + moved.flatten())


def why_not_behind(layer: Any, affine: Affine) -> str | None:
    """Why the layer cannot take over an affine map in front of it, by its geometry; None if it can.

    Where it pads with zeros, these stand for values behind the affine map, and a shift would reach them too.
    """
    if isinstance(layer, nn.Linear) or not bool(affine.shift.any()):
        return None
    if isinstance(layer, TRANSPOSED):
        plain = all(size == 1 for size in (*layer.kernel_size, *layer.stride))
        if plain and not any((*layer.padding, *layer.output_padding)):
            return None
        return "it is transposed, and at its borders the shift would count less"
    if layer.padding_mode != "zeros" or not any(layer._reversed_padding_repeated_twice):
        return None
    return "it pads with zeros, which the shift would move too"


def _spread(values: Tensor, dims: int) -> Tensor:
    return values.reshape(*values.shape, *[1] * (dims - values.dim()))
