"""The virtual batch of each sample, and the moments of each virtual batch, on ``keras.ops``."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from normwise.keras.steps.checks_mask import without_channels
from normwise.keras.steps.gather import one_or_more
from normwise.moments import Moments

ORDERS = ("consecutive", "interleaved", "shuffled")


class Sizes(NamedTuple):
    """The division of a batch: a number of samples each, or of parts; one of the two is None."""

    virtual_batch_size: int | None
    num_splits: int | None
    smallest: int | None

    def of(self, samples: Any) -> tuple[Any, Any, Any]:
        """The division of a batch of so many samples, a whole number or a tensor of one.

        Returns:
            how many virtual batches of the same size, that size, and whether there is one more, 0 or 1; what is over
            and is too few for one more belongs to the last.

        Example:
            >>> [tuple(int(part) for part in Sizes(4, None, None).of(n)) for n in (3, 8, 9, 11)]
            [(0, 3, 1), (2, 4, 0), (1, 4, 1), (2, 4, 1)]
        """
        size = self.virtual_batch_size if self.num_splits is None else -(-samples // self.num_splits)
        size = _smaller(size, samples)
        groups = samples // size
        rest = samples - groups * size
        smallest = size // 2 + 1 if self.smallest is None else self.smallest
        # The samples that are over join the last full one, which is then not of the same size as the others.
        joins = _whole(rest > 0) * _whole(rest < smallest)
        groups = groups - joins
        more = _whole(rest > 0) * (1 - joins) + joins
        alone = _whole(groups + more == 1)
        return groups * (1 - alone), size * (1 - alone) + samples * alone, more * (1 - alone) + alone


def _smaller(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else ops.minimum(a, b)


def _whole(condition: Any) -> Any:
    return int(condition) if isinstance(condition, bool) else ops.cast(condition, "int32")


def virtual_batch_of(samples: Any, sizes: Sizes, order: str, seed: Any) -> tuple[Any, Any]:
    """The number of every sample's virtual batch, int32, shape (N,), and how many there are.

    Args:
        samples: N.
        sizes: of the virtual batches.
        order: one of ``ORDERS``.
        seed: a ``keras.random.SeedGenerator``, for ``"shuffled"``.

    Example:
        >>> number, groups = virtual_batch_of(9, Sizes(4, None, 1), "interleaved", None)
        >>> [int(group) for group in number], int(groups)
        ([0, 1, 0, 1, 0, 1, 0, 1, 2], 3)
    """
    groups, size, more = sizes.of(samples)
    place = ops.arange(samples, dtype="int32")
    if order == "interleaved":
        dealt = place % (groups + _whole(groups == 0))
        number = ops.where(place < groups * size, dealt, groups)
    else:
        number = ops.minimum(place // size, groups + more - 1)
    return (keras.random.shuffle(number, seed=seed) if order == "shuffled" else number), groups + more


class GatheredByGroups(NamedTuple):
    """The parts of ``Gathered``, with an entry per sample where that has one for all: for its virtual batch."""

    centred: Any
    near: Any
    offset: Any
    var: Any
    single: Any
    total: Moments

    @property
    def count(self) -> Any:
        """The number of values that count in all, shape (C,) or (1,)."""
        return self.total.count

    def mean(self) -> Any:
        """The mean of all values, shape (C,)."""
        return self.total.mean

    def variance(self) -> Any:
        """The biased variance of all values, shape (C,): that within the virtual batches and that between them."""
        return self.total.var

    def is_single(self, axis: int) -> Any:
        """True where a virtual batch has one value of a channel; with the axes of the input."""
        _ = axis
        return self.single


def gather_by_groups(inputs: Any, mask: Any, axis: int, number: Any, groups: Any) -> GatheredByGroups:
    r"""The moments of each channel in each virtual batch, by the formulas of ``gather.gather``.

    Args:
        inputs: float32 or float64; samples along the first axis.
        mask: boolean, the axes of the input or 1; None where all values count.
        axis: of the channels.
        number: of each sample's virtual batch, shape (N,).
        groups: how many there are.
    """
    channels = axis % len(inputs.shape)
    within = tuple(index for index in without_channels(inputs, axis) if index != 0)

    def summed(values: Any) -> Any:
        """The sums over each virtual batch, shape (groups, C)."""
        counting = values if mask is None else ops.where(mask, values, ops.zeros_like(values))
        per_sample = ops.sum(counting, within) if within else counting
        if keras.backend.backend() == "torch":  # where Keras's would sum float64 in float32
            return ops.zeros((groups, *per_sample.shape[1:]), inputs.dtype).index_add(0, number, per_sample)
        return ops.segment_sum(per_sample, number, num_segments=groups)

    def per_sample(of_groups: Any) -> Any:
        found = ops.take(of_groups, number, axis=0)
        shape = [1] * len(inputs.shape)
        shape[0], shape[channels] = -1, inputs.shape[channels]
        return ops.reshape(found, shape)

    count = summed(ops.ones_like(inputs))
    values = one_or_more(count)
    near = ops.stop_gradient(summed(inputs) / values)
    centred = inputs - per_sample(near)
    offset = summed(centred) / values
    var = ops.relu(summed(ops.square(centred)) / values - ops.square(offset))
    mean, all_values = near + offset, ops.sum(count, 0)
    share = count / one_or_more(all_values)
    total = ops.sum(mean * share, 0)
    return GatheredByGroups(
        centred,
        per_sample(near),
        per_sample(offset),
        per_sample(var),
        per_sample(ops.equal(count, 1)),
        Moments(total, ops.sum((var + ops.square(mean - total)) * share, 0), all_values),
    )
