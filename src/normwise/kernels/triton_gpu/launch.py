"""Functions that take tensors and launch the kernels: dense tensors in, tensors out, no autograd and no state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.kernels.activation_numbers import ACTIVATIONS, name_of, parted
from normwise.kernels.triton_gpu.constants import Line, Tile
from normwise.kernels.triton_gpu.counters import counters
from normwise.kernels.triton_gpu.gradients import (
    finish_sums,
    gradients_by_last,
    gradients_held,
    normalize_gradients,
    sum_gradients,
)
from normwise.kernels.triton_gpu.layout import bytes_per_value, has_each, lies_last, like, number_of_bytes, view
from normwise.kernels.triton_gpu.moments import finish, gather
from normwise.kernels.triton_gpu.normalize import normalize, normalize_by_last, normalize_held
from normwise.kernels.triton_gpu.plan import Device, Piece, Plan, parts, plan
from normwise.kernels.triton_gpu.tuning import settings_for

USUAL: dict[str | None, float] = {"elu": 1.0, "leaky_relu": 0.01}
FUSING = {"enable_fp_fusion": True}  # multiply-add in one instruction; Triton warns where it is not set
# The registers of a thread of a kernel of few programs; left to itself, ptxas spills some to fit one program more.
# AMD's compiler has no such setting.
ROOMY = {} if torch.version.hip else {"maxnreg": 128}
FINISHED, FINISHING_WARPS = 4096, 8  # partial results in a tile of ``finish``, and its warps


class Asked(NamedTuple):
    """The activation as the kernels take it."""

    kind: int
    setting: float


def asked(activation: int) -> Asked:
    """The kernels' two numbers for one of ``number_of``.

    Example:
        >>> asked(2)
        Asked(kind=2, setting=0.01)
    """
    name = name_of(activation)
    kind, setting = (None, None) if name is None else parted(name)
    return Asked(ACTIVATIONS[kind], USUAL.get(kind, 0.0) if setting is None else setting)


@cache
def device_of(device: torch.device) -> Device:
    """The facts about the device that a plan needs; the interpreter is taken for a small GPU."""
    if device.type != "cuda":
        return Device("interpreter", 2, 1 << 20)
    found = torch.cuda.get_device_properties(device)
    return Device(found.name, found.multi_processor_count, getattr(found, "L2_cache_size", 0))


def moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean and variance of each channel in float64, 0 where nothing counts.

    Args:
        x: dense (N, C, *spatial).
        mask: boolean, (N, C, *spatial) or 1 in place of any of these, or None.
    """
    mean, var = _of_channels(x, torch.float64), _of_channels(x, torch.float64)
    if x.numel():
        flat = None if mask is None else bytes_per_value(mask, x)
        with _on(x):
            how = plan(
                view(x), device_of(x.device), settings_for(x, device_of(x.device)), streams=1, whole=False, twice=False
            )
            partials = _room(4, x, how)
            for piece in how.pieces:
                _gather(x, flat, partials, how, piece)
            _finish(partials, mean, var, how, Piece(0, sum(piece.groups for piece in how.pieces)))
    return mean, var


def forward(
    x: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps: float,
    activation: int,
    keep_bits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``reference.forward_batch``, or ``forward_fixed`` where statistics are given.

    Args:
        x: dense (N, C, *spatial), float32, bfloat16 or float16.
        residual: the shape of x, or None.
        mask: boolean, (N, C, *spatial) or 1 in place of any of these, or None.
        scale: (C,), or None for 1.
        shift: (C,), or None for 0.
        mean: (C,), or None to normalize by the batch.
        var: (C,), with ``mean``.
        eps: added to the variance.
        activation: a number of ``activation_numbers``.
        keep_bits: whether to save one bit per element for the backward.

    Returns:
        y, the statistics that it used in float64, and the bits.
    """
    y = torch.empty_like(x)
    bits = x.new_empty(number_of_bytes(x.shape, last=lies_last(x)) if keep_bits else 0, dtype=torch.uint8)
    used_mean, used_var = _of_channels(x, torch.float64), _of_channels(x, torch.float64)
    if mean is not None and var is not None:
        used_mean.copy_(mean)
        used_var.copy_(var)
    if not x.numel():
        return y, used_mean, used_var, bits
    residual = None if residual is None else like(residual, x)
    flat = None if mask is None else bytes_per_value(mask, x)
    kind, setting = asked(activation)
    device = device_of(x.device)
    by_batch = mean is None
    how = plan(view(x), device, settings_for(x, device), streams=1, whole=by_batch, twice=by_batch)
    fixed = {
        **_tile(how, flat),
        "LINE": Line(kind, residual is not None, keep_bits, scale is not None, shift is not None),
    }
    channel = (used_mean, used_var, scale, shift)
    written = (y, bits, eps, setting)
    grid = how.pieces[0].groups, how.splits
    with _on(x):
        if how.held:
            roomy = ROOMY if fixed["TILE"].each else {}
            normalize_held[grid[:1]](x, residual, flat, *channel, *written, *_matrix(how), **roomy, **fixed)
        elif how.by_last:
            normalize_by_last[grid](
                x, residual, flat, _room(4, x, how), counters(x), *channel, *written, *_matrix(how), *_cut(how),
                SPLITS=parts(how.splits), STEADY=how.steady and flat is None, **fixed,
            )  # fmt: skip
        else:
            partials = _room(4, x, how) if by_batch else None
            for piece in how.pieces:
                if partials is not None:
                    _gather(x, flat, partials, how, piece)
                    if not how.joins:
                        _finish(partials, used_mean, used_var, how, piece)
                normalize[(piece.groups, how.splits)](
                    x, residual, flat, partials, *channel, *written, piece.first, *_matrix(how), *_cut(how),
                    SPLITS=parts(how.splits) if by_batch and how.joins else 0, **fixed,
                )  # fmt: skip
    return y, used_mean, used_var, bits


def backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    var: Tensor,
    bits: Tensor,
    eps: float,
    activation: int,
    by_batch: bool,
    wants_dx: bool,
    wants_dresidual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``reference.backward_batch``, or ``backward_fixed`` where the statistics are constants.

    Args:
        dy: the gradient of the loss for y.
        x: as in the forward.
        residual: as in the forward, or None where there was none or the bits tell the slope.
        mask: as in the forward.
        scale: as in the forward.
        shift: as in the forward.
        mean: what the forward used.
        var: what the forward used.
        bits: what the forward saved.
        eps: as in the forward.
        activation: as in the forward.
        by_batch: whether the statistics are the batch's own.
        wants_dx: whether the gradient of x is wanted; else it is empty.
        wants_dresidual: whether the gradient of the residual is wanted; else it is empty.

    Returns:
        The gradients of x, scale, shift and residual.
    """
    dx, dresidual = (torch.empty_like(x) if wanted else x.new_empty(0) for wanted in (wants_dx, wants_dresidual))
    dscale, dshift = (_of_channels(x, torch.float64 if tensor is None else tensor.dtype) for tensor in (scale, shift))
    if not x.numel():
        return dx, dscale, dshift, dresidual
    dy, residual = like(dy, x), None if residual is None else like(residual, x)
    flat = None if mask is None else bytes_per_value(mask, x)
    kind, setting = asked(activation)
    device = device_of(x.device)
    two_sweeps = by_batch and wants_dx
    streams = 2 if residual is None else 3
    how = plan(view(x), device, settings_for(x, device), streams=streams, twice=two_sweeps)
    line = Line(kind, residual is not None, bits.numel() > 0, scale is not None, shift is not None)
    fixed = {**_tile(how, flat), "LINE": line}
    given = (dy, x, residual, flat, bits, mean, var, scale, shift, dx, dresidual, eps, setting)
    sums = (dscale, dshift, float(how.view.values))
    grid = how.pieces[0].groups, how.splits
    with _on(x):
        if how.held:
            gradients_held[grid[:1]](
                *given, *sums, *_matrix(how),
                BY_BATCH=by_batch, WANTS_X=wants_dx, WANTS_RESIDUAL=wants_dresidual, **fixed,
            )  # fmt: skip
        elif how.by_last:
            gradients_by_last[grid](
                *given, _room(3, x, how), counters(x), *sums, *_matrix(how), *_cut(how),
                SPLITS=parts(how.splits), WANTS_RESIDUAL=wants_dresidual, **ROOMY, **fixed,
            )  # fmt: skip
        else:
            partials = _room(3, x, how)
            joins = two_sweeps and how.joins
            whole = None if joins else torch.empty(3, x.shape[1], dtype=torch.float32, device=x.device)
            for piece in how.pieces:
                sum_gradients[(piece.groups, how.splits)](
                    *given, partials, piece.first, *_matrix(how), *_cut(how),
                    WANTS_X=wants_dx and not by_batch, WANTS_RESIDUAL=wants_dresidual and not two_sweeps, **fixed,
                )  # fmt: skip
                if whole is not None:
                    _finish_sums(partials, whole, dscale, dshift, how, piece, masked=flat is not None and two_sweeps)
                if two_sweeps:
                    normalize_gradients[(piece.groups, how.splits)](
                        *given, partials if whole is None else whole, *sums, piece.first, *_matrix(how),
                        *(_cut(how) if joins else (*_cut(how)[:-1], 1)),
                        SPLITS=parts(how.splits) if joins else 1, WANTS_RESIDUAL=wants_dresidual,
                        **fixed,
                    )  # fmt: skip
    return dx, dscale, dshift, dresidual


def _of_channels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for a number per channel; the kernels write all of it, and where there is no value it is 0."""
    return (x.new_empty if x.numel() else x.new_zeros)(x.shape[1], dtype=dtype)


def _gather(x: Tensor, mask: Tensor | None, partials: Tensor, how: Plan, piece: Piece) -> None:
    gather[(piece.groups, how.splits)](
        x, mask, partials, piece.first, *_matrix(how), *_cut(how), STEADY=how.steady and mask is None,
        **_tile(how, mask),
    )  # fmt: skip


def _finish(partials: Tensor, mean: Tensor, var: Tensor, how: Plan, piece: Piece) -> None:
    grid, first, behind, tile = _finishing(how, piece)
    finish[grid](partials, mean, var, first, behind, how.view.channels, how.splits, **tile)


def _finish_sums(
    partials: Tensor, sums: Tensor, dscale: Tensor, dshift: Tensor, how: Plan, piece: Piece, *, masked: bool
) -> None:
    grid, first, behind, tile = _finishing(how, piece)
    finish_sums[grid](
        partials, sums, dscale, dshift, first, behind, how.view.channels, how.splits, MASKED=masked, **tile
    )


def _finishing(how: Plan, piece: Piece) -> tuple[tuple[int], int, int, dict[str, int]]:
    """Grid, the channels from and up to, and the tile of the launch that puts a piece's partial results together."""
    in_group = how.across if how.view.last else 1
    first = piece.first * in_group
    behind = min(first + piece.groups * in_group, how.view.channels)
    splits = parts(how.splits)
    across = max(FINISHED // splits, 1)
    return (
        (-(-(behind - first) // across),),
        first,
        behind,
        {"SPLITS": splits, "ACROSS": across, "num_warps": FINISHING_WARPS, **FUSING},
    )


def _room(numbers: int, x: Tensor, how: Plan) -> Tensor:
    """Memory for so many partial results of every program."""
    return torch.empty(numbers, how.splits, how.view.channels, dtype=torch.float32, device=x.device)


def _matrix(how: Plan) -> tuple[int, int, int]:
    """Rows, channels, and vectors in a row."""
    return how.view.rows, how.view.channels, how.view.width // how.view.vector


def _cut(how: Plan) -> tuple[int, int, int, int]:
    """Blocks, tiles, tiles for each program, and programs."""
    return how.blocks, how.tiles, how.per, how.splits


def _tile(how: Plan, mask: Tensor | None) -> dict[str, Any]:
    """The settings of a plan that are compiled into a kernel."""
    each = mask is not None and has_each(mask)
    tile = Tile(how.view.vector, how.down, how.across, how.view.last, mask is not None, each)
    return {"TILE": tile, "num_warps": how.warps, **FUSING}


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
