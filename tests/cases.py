"""Inputs that the implementations are compared on: shapes, values and layouts, each with the reason for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normwise.kernels import reference
from normwise.moments import Moments
from tests.tolerances import Bounds, Sizes, bounds, unit

F64 = NDArray[np.float64]

SHAPES: dict[str, tuple[int, ...]] = {
    "features": (6, 3),
    "one channel": (5, 1),
    "two values per channel, where every normalized value is +-1 and dx nearly cancels": (2, 3),
    "one sample with spatial extent": (1, 2, 7),
    "sequences": (4, 3, 5),
    "images": (3, 4, 2, 3),
    "images of one channel": (2, 1, 3, 3),
    "images of one pixel": (4, 2, 1, 1),
    "volumes": (2, 4, 2, 3, 2),
    "more channels than a vector register holds, by one; nothing is a power of two": (7, 17, 3, 5),
}

# From plain normal values to those of the name; the second argument is the largest |mean| / std the dtype can tell.
VALUES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "plain": lambda x, _: x,
    "large mean": lambda x, largest: x + largest,
    "constant channel": lambda x, _: x.index_fill(1, torch.tensor([0]), 3.7),
    "variance far below eps": lambda x, _: x * 1e-4 + 0.01,
    "wide": lambda x, _: x * 100,
}
LARGEST_MEAN = {torch.float64: 1e6, torch.float32: 1e3, torch.bfloat16: 16.0, torch.float16: 64.0}

DTYPES = list(LARGEST_MEAN)


def _strided(x: Tensor) -> Tensor:
    """Every second value of a larger tensor, in every axis; the rest is NaN and must not be touched."""
    larger = x.new_full([2 * size for size in x.shape], float("nan"))
    view = larger[tuple(slice(None, None, 2) for _ in x.shape)]
    view.copy_(x)
    return view


def _reversed(x: Tensor) -> Tensor:
    """The last axis outermost in memory."""
    axes = list(reversed(range(x.dim())))
    return x.permute(axes).contiguous().permute(axes)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    # torch.channels_last, torch.channels_last_3d, and the same for sequences
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "reversed": _reversed,
    "strided": _strided,
}

KINKS = (-3.0, 0.0, 3.0, 6.0)  # of all activations


class Problem(NamedTuple):
    """One input with everything that goes with it, and the dtype of the parameters."""

    x: Tensor
    scale: Tensor
    shift: Tensor
    mean: Tensor
    var: Tensor
    residual: Tensor | None
    mask: Tensor | None  # with 1 for the channels where ``problem`` makes it
    activation: str | None
    training: bool
    eps: float = 1e-5


class Law(NamedTuple):
    """The results of the reference for a problem."""

    y: F64
    batch: Moments
    gradients: reference.Gradients
    sizes: Sizes


def problem(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    values: str = "plain",
    layout: str = "contiguous",
    activation: str | None = None,
    residual: bool = False,
    mask: bool = False,
    training: bool = True,
    parameters: torch.dtype | None = None,
    seed: int = 0,
) -> Problem:
    """The problem of that description; the same description gives the same numbers."""
    draw = torch.Generator().manual_seed(seed)
    channels = shape[1]

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, dtype=torch.float64)

    x = LAYOUTS[layout](VALUES[values](normal(*shape), LARGEST_MEAN[dtype]).to(dtype))
    kept = parameters or (dtype if dtype == torch.float64 else torch.float32)
    inside = None
    if mask:
        inside = torch.rand((shape[0], 1, *shape[2:]), generator=draw) < 0.7
        inside.view(-1)[:2] = True  # at least two values count
    return Problem(
        x=x,
        scale=(1.0 + 0.5 * normal(channels)).to(kept),
        shift=normal(channels).to(kept),
        # near the batch's own, as running statistics are
        mean=(x.double().mean([axis for axis in range(x.dim()) if axis != 1]) + 0.1 * normal(channels)).to(kept),
        var=(0.5 + torch.rand(channels, generator=draw, dtype=torch.float64)).to(kept),
        residual=LAYOUTS[layout](normal(*shape).to(dtype)) if residual else None,
        mask=inside,
        activation=activation,
        training=training,
    )


def array(tensor: Tensor) -> F64:
    """The tensor as an array in float64."""
    found: F64 = tensor.detach().double().numpy()
    return found


def _sizes(p: Problem, batch: Moments) -> Sizes:
    """The sizes that decide how exact the computation can be."""
    along = (1, -1, *[1] * (p.x.dim() - 2))
    mean, var = (batch.mean, batch.var) if p.training else (array(p.mean), array(p.var))
    inv = (1 / np.sqrt(var + p.eps)).reshape(along)
    weights = np.ones((1,) * p.x.dim()) if p.mask is None else p.mask.numpy()
    normalized = np.where(weights, (array(p.x) - mean.reshape(along)) * inv, 0.0)
    scale, shift = (array(parameter).reshape(along) for parameter in (p.scale, p.shift))
    return Sizes(
        normalized=normalized,
        linear=normalized * scale + shift,
        residual=np.zeros(()) if p.residual is None else array(p.residual),
        ratio=np.abs(mean).reshape(along) * inv,
        inv=inv,
        scale=np.abs(scale),
        values=np.maximum(batch.count, 1.0).reshape(along) if np.ndim(batch.count) else max(batch.count, 1.0),
    )


def law(p: Problem) -> tuple[Law, Tensor]:
    """The results of the reference, and the gradient of the loss for y that they belong to.

    The gradient is 0 where rounding decides on which side of an activation's kink a value falls.
    """
    weights = None if p.mask is None else p.mask.numpy()
    batch = reference.moments(array(p.x), weights=weights)
    sizes = _sizes(p, batch)
    draw = torch.Generator().manual_seed(1)
    dy = torch.randn(p.x.shape, generator=draw, dtype=torch.float64)
    if p.activation is not None:
        z = sizes.linear + sizes.residual
        near = np.min([np.abs(z - kink) for kink in KINKS], axis=0) < 16 * unit(p.x.dtype) * (4 + sizes.ratio)
        dy = dy.masked_fill(torch.from_numpy(near), 0)
    dy = dy.to(p.x.dtype)
    activation, residual = p.activation, None if p.residual is None else array(p.residual)
    x, scale, shift, mean, var = (array(tensor) for tensor in (p.x, p.scale, p.shift, p.mean, p.var))
    if p.training:
        y, _ = reference.forward_batch(
            x, scale, shift, p.eps, activation=activation, residual=residual, weights=weights
        )
        gradients = reference.backward_batch(
            array(dy), x, scale, shift, p.eps, activation=activation, residual=residual, weights=weights
        )
    else:
        y = reference.forward_fixed(
            x, mean, var, scale, shift, p.eps, activation=activation, residual=residual, weights=weights
        )
        gradients = reference.backward_fixed(
            array(dy), x, mean, var, scale, shift, p.eps, activation=activation, residual=residual, weights=weights
        )
    return Law(y, batch, gradients, sizes), dy


def allowed(p: Problem, said: Law, dy: Tensor, *, kept: torch.dtype | None, running: bool = False) -> Bounds:
    """The bounds of ``tests.tolerances`` for this problem."""
    return bounds(
        said.sizes,
        array(dy),
        said.gradients,
        p.x.dtype,
        parameters=p.scale.dtype,
        kept=kept,
        running=running,
        by_batch=p.training,
    )


def running(layer: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """A layer's running statistics, which it has."""
    mean, var = layer.running_mean, layer.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(var, Tensor)
    return mean, var


def saved_buffers(module: torch.nn.Module) -> list[Tensor]:
    """The buffers that are in its checkpoints: torch's, without the counter of skipped batches that ours has."""
    saved = module.state_dict(keep_vars=True)
    return [buffer for name, buffer in module.named_buffers() if name in saved]


def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The gradients of tensors that have one."""
    found = tuple(tensor.grad for tensor in tensors if tensor.grad is not None)
    assert len(found) == len(tensors)
    return found
