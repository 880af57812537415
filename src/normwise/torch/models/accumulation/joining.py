"""One call of a layer for several parts of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from normwise.errors import NormwiseError
from normwise.kernels.aten import memory_format
from normwise.torch.layers.ghost_batch_norm import GhostBatchNorm


def joint_call(
    call: Callable[..., Any], layer: nn.Module, args: Sequence[tuple[Any, ...]], kwargs: Sequence[dict[str, Any]]
) -> Sequence[Any]:
    """The layer called with what all parts bring, one behind the other along the first axis, and its output in parts.

    Parts that differ in other axes too, as images of several sizes, are laid out as one long image: what normalizes by
    channel does not ask where its values stand.

    Args:
        call: the layer's own forward.
        layer: for the messages, and for what it allows.
        args: of each part.
        kwargs: of each part.

    Returns:
        the output of each part.

    Raises:
        NormwiseError: the parts do not fit together.

    Example:
        >>> parts = [(torch.tensor([[1.0]]),), (torch.tensor([[3.0]]),)]
        >>> layer = nn.BatchNorm1d(1, affine=False)
        >>> [y.round().item() for y in joint_call(layer.forward, layer, parts, [{}, {}])]
        [-1.0, 1.0]
    """
    kind = type(layer).__name__
    if len({(len(each), *sorted(named)) for each, named in zip(args, kwargs, strict=True)}) > 1:
        raise NormwiseError(f"the micro-batches call {kind} with different arguments: let all give it the same ones.")
    columns = [*zip(*args, strict=True), *([named[key] for named in kwargs] for key in kwargs[0])]
    inputs = columns[0] if columns else ()
    if not all(isinstance(x, Tensor) and x.dim() > 0 for x in inputs) or not inputs:
        raise NormwiseError(f"{kind} was called without a tensor, of which there would be parts to join.")
    sizes = [len(x) for x in inputs]
    joined: Callable[[Sequence[Any], str], Any]
    if len({x.shape[1:] for x in inputs}) > 1:
        _refuse_sizes(layer, kind, inputs, columns)
        values = [x.numel() // max(x.shape[1], 1) for x in inputs]

        def joined(column: Sequence[Any], kind: str) -> Any:
            return _in_a_row(column) if isinstance(column[0], Tensor) else _along_samples(column, kind, sizes)

        def parts(y: Tensor) -> list[Tensor]:
            rows = y.reshape(y.shape[1], -1).split(values, 1)
            return [_as_it_was(row, x) for row, x in zip(rows, inputs, strict=True)]
    else:

        def joined(column: Sequence[Any], kind: str) -> Any:
            return _along_samples(column, kind, sizes)

        def parts(y: Tensor) -> list[Tensor]:
            # As of no common origin, so that they may be changed in place, unless the layer keeps what it gave out.
            split = (
                torch.unsafe_split_with_sizes if getattr(layer, "activation", None) is None else torch.split_with_sizes
            )
            return list(split(y, sizes))

    positional = [joined(column, kind) for column in columns[: len(args[0])]]
    named = {key: joined(column, kind) for key, column in zip(kwargs[0], columns[len(args[0]) :], strict=True)}
    return parts(call(*positional, **named))


def _along_samples(column: Sequence[Any], kind: str, sizes: Sequence[int]) -> Any:
    """All tensors of one argument; what is no tensor must be the same for all parts."""
    first = column[0]
    if all(value is first for value in column) and not (isinstance(first, Tensor) and first.dim()):
        return first
    if all(isinstance(value, Tensor) and value.dim() for value in column):
        # A mask may have one row for all samples.
        return torch.cat([value.expand(size, *value.shape[1:]) for value, size in zip(column, sizes, strict=True)])
    if not any(isinstance(value, Tensor) for value in column) and all(value == first for value in column):
        return first
    raise NormwiseError(f"the micro-batches call {kind} with arguments that cannot be joined: give all the same kind.")


def _refuse_sizes(layer: nn.Module, kind: str, inputs: Sequence[Tensor], columns: Sequence[Sequence[Any]]) -> None:
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    alike = len({x.shape[1] for x in inputs if x.dim() > 1}) == 1 and len({x.dim() for x in inputs}) == 1
    by_sample = isinstance(layer, _InstanceNorm | GhostBatchNorm)
    as_input = all(
        not isinstance(value, Tensor) or value.shape == x.shape
        for column in columns
        for value, x in zip(column, inputs, strict=True)
    )
    if by_sample or not alike or not as_input:
        raise NormwiseError(
            f"the micro-batches come to {kind} with the shapes {shapes}, which it cannot take together: "
            "let them differ in the number of samples only."
        )


def _in_a_row(column: Sequence[Tensor]) -> Tensor:
    """(N, C, *spatial) of any sizes as one sample of (1, C, values, 1, ...)."""
    rows = torch.cat([x.transpose(0, 1).reshape(x.shape[1], -1) for x in column], 1)
    return rows.view(1, *rows.shape, *[1] * (column[0].dim() - 3))


def _as_it_was(row: Tensor, x: Tensor) -> Tensor:
    samples, channels, *spatial = x.shape
    assert row.shape[1] == samples * math.prod(spatial)
    return row.reshape(channels, samples, *spatial).transpose(0, 1).contiguous(memory_format=memory_format(x))
