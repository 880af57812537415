"""The samples of a batch that make up a virtual batch: their number, and the order in which they are dealt."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from normwise.kernels import aten
from normwise.kernels.recording import recording
from normwise.torch.steps.buffers import transformed

ORDERS = ("consecutive", "interleaved", "shuffled")


class Sizes:
    """The number of samples in a virtual batch: a number that is given, or a share of the batch.

    Args:
        virtual_batch_size: samples each, or None.
        num_splits: how many virtual batches, or None.
        smallest: samples of the last one at least, or None for more than half of the others.

    Raises:
        TypeError: not whole numbers.
        ValueError: neither or both of the first two, or a number below 1.

    Example:
        >>> Sizes(4, None, None).of(11), Sizes(4, None, None).of(9), Sizes(None, 3, None).of(11)
        ((2, 4, 3), (1, 4, 5), (2, 4, 3))
    """

    def __init__(self, virtual_batch_size: int | None, num_splits: int | None, smallest: int | None) -> None:
        given = {"virtual_batch_size": virtual_batch_size, "num_splits": num_splits, "smallest": smallest}
        for name, number in given.items():
            if number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(
                    f"{name} must be a whole number, received {type(number).__name__}: pass for example 32."
                )
            if number < 1:
                raise ValueError(f"{name} must be 1 or more, received {number}: pass for example 32.")
        if (virtual_batch_size is None) == (num_splits is None):
            raise ValueError(
                "virtual_batch_size or num_splits must be given, and not both, received "
                f"virtual_batch_size={virtual_batch_size}, num_splits={num_splits}: pass for example "
                "virtual_batch_size=128."
            )
        self.virtual_batch_size, self.num_splits, self.smallest = virtual_batch_size, num_splits, smallest

    def of(self, samples: int) -> tuple[int, int, int]:
        """The division of a batch into virtual batches.

        Args:
            samples: of the batch, 1 or more.

        Returns:
            how many virtual batches of the same size, that size, and how many samples are in one more, or 0.
        """
        if self.num_splits is not None:
            size = -(-samples // self.num_splits)
        else:
            assert self.virtual_batch_size is not None
            size = self.virtual_batch_size
        smallest = size // 2 + 1 if self.smallest is None else self.smallest
        groups, rest = divmod(samples, size)
        if groups == 0 or (groups == 1 and 0 < rest < smallest):
            return 1, samples, 0
        if 0 < rest < smallest:
            return groups - 1, size, rest + size
        return groups, size, rest

    def __repr__(self) -> str:
        size = f"num_splits={self.num_splits}" if self.num_splits else f"virtual_batch_size={self.virtual_batch_size}"
        return size if self.smallest is None else f"{size}, smallest={self.smallest}"


class Places(NamedTuple):
    """The order in which the samples are taken, and its inverse."""

    order: Tensor
    back: Tensor


def order_of(order: str, groups: int, size: int, samples: int, device: torch.device) -> Places | None:
    """The order of a batch in which every ``groups``-th sample is of the same virtual batch, the ragged one behind.

    Args:
        order: one of ``ORDERS``.
        groups: virtual batches of the same size.
        size: samples in each.
        samples: in all.
        device: of the batch.

    Returns:
        the order and its inverse, int64, or None where the batch is already in it.
    """
    if order == "interleaved" or (order == "consecutive" and groups == 1):
        return None
    if order == "shuffled":
        places = torch.randperm(samples, device=device)
        return Places(places, torch.empty_like(places).scatter_(0, places, torch.arange(samples, device=device)))
    places = torch.arange(samples, device=device)
    within = groups * size
    forth = places[:within].view(groups, size).t().flatten()
    back = places[:within].view(size, groups).t().flatten()
    return Places(torch.cat((forth, places[within:])), torch.cat((back, places[within:])))


def permuted(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """The rows of x in another order, with a gradient that only puts them back: nothing has to be added up.

    Args:
        x: any shape.
        order: which row comes where, int64.
        back: the inverse of it.
    """
    # A recorder cannot keep a function of our own, and the compiler fuses the adding up; torch.func loses its second
    # tangents.
    if recording() or transformed():
        return _taken(x, order)
    moved: Tensor = _Permuted.apply(x, order, back)
    return moved


def _taken(x: Tensor, order: Tensor) -> Tensor:
    """The samples as they lie in memory: PyTorch would turn those whose channels come last."""
    if x.dim() < 4 or aten.memory_format(x) is torch.contiguous_format:
        return x.index_select(0, order)
    return x.movedim(1, -1).index_select(0, order).movedim(-1, 1)


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        _ = back
        return _taken(x, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _ = output
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        order, back = ctx.saved_tensors
        return permuted(gradient, back, order), None, None

    @staticmethod
    def jvp(ctx: Any, x: Tensor, *_: Any) -> Tensor:
        order, back = ctx.saved_tensors
        return permuted(x, order, back)
