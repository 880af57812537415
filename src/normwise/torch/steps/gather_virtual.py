"""Virtual batches as a kernel takes them: many as channels of one batch, and what came of each put together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normwise.kernels.kernel import Call
from normwise.moments import Moments
from normwise.torch.steps.gather_order import Places, permuted


def repeated(call: Call, groups: int) -> Call:
    """The statistics and parameters of a call for each of the groups, one after the other."""
    if groups == 1:
        return call
    mean, var, scale, shift = (
        None if tensor is None else tensor.repeat(groups) for tensor in (call.mean, call.var, call.scale, call.shift)
    )
    return call._replace(mean=mean, var=var, scale=scale, shift=shift)


class PerSample(NamedTuple):
    """The tensors that have an entry per sample; the residual and the weights may be None."""

    input: Tensor
    residual: Tensor | None
    weights: Tensor | None

    def split(self, sizes: list[int]) -> list[PerSample]:
        """The samples in so many parts; in one operation, whose gradient is one too."""
        if len(sizes) == 1:
            return [self]
        x, residual, weights = (None if tensor is None else tensor.split(sizes) for tensor in self)
        assert x is not None
        nothing = (None,) * len(sizes)
        return [PerSample(*part) for part in zip(x, residual or nothing, weights or nothing, strict=True)]

    def moved(self, places: Places) -> PerSample:
        """The samples in another order."""
        x, residual, weights = self
        return PerSample(
            permuted(x, *places),
            None if residual is None else permuted(residual, *places),
            None if weights is None else permuted(weights, *places),
        )

    def dealt(self, groups: int) -> list[PerSample]:
        """Every ``groups``-th sample in a part of its own, as they lie in memory with the channels last."""

        def parts(tensor: Tensor) -> list[Tensor]:
            rows = tensor.movedim(1, -1).unflatten(0, (-1, groups))
            return [part.movedim(-1, 1) for part in rows.unbind(1)]  # whose gradients are all put together at once

        x, residual, weights = (None if tensor is None else parts(tensor) for tensor in self)
        assert x is not None
        nothing = [None] * groups
        return [PerSample(*part) for part in zip(x, residual or nothing, weights or nothing, strict=True)]

    def as_channels(self, groups: int) -> PerSample:
        """Every ``groups``-th sample is a sample of the same group, and each group has channels of its own.

        Of a batch whose channels come first in memory nothing is copied.
        """
        if groups == 1:
            return self
        x, residual, weights = self
        shape = (x.shape[0] // groups, groups * x.shape[1], *x.shape[2:])
        if weights is not None:
            weights = weights.expand(-1, x.shape[1], *weights.shape[2:])
            weights = weights.reshape(*shape[:2], *weights.shape[2:])
        return PerSample(x.reshape(shape), None if residual is None else residual.reshape(shape), weights)


def woven(parts: list[Tensor]) -> Tensor:
    """The samples in the order that they had before ``PerSample.dealt``.

    Example:
        >>> woven([torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [4.0]])]).flatten()
        tensor([1., 2., 3., 4.])
    """
    return torch.stack([part.movedim(1, -1) for part in parts], 1).flatten(0, 1).movedim(-1, 1)


def together(calls: list[Moments]) -> Moments:
    """The moments of all calls; those of one size, which may be many, at once."""
    alike = [moments for moments in calls if isinstance(moments.count, int) and moments.count == calls[0].count]
    if len(alike) > 1:
        means, variances = (torch.stack([getattr(one, name) for one in alike]) for name in ("mean", "var"))
        calls = [Moments(means, variances, alike[0].count).merged(), *calls[len(alike) :]]
    total = calls[0]
    for moments in calls[1:]:
        total = total.merge(moments)
    return total
