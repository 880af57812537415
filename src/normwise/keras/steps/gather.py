"""The gather step on ``keras.ops``: the moments of a batch by a shifted two-pass formula, with masks and replicas."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from normwise.keras.steps.checks_mask import values_per_channel, without_channels
from normwise.keras.steps.gather_replicas import sum_of_replicas, synchronizing
from normwise.keras.steps.kernels import tensorflow_sums

# One of so many samples is used to find a number near the mean.
EVERY = 16


class Gathered(NamedTuple):
    """A batch about a number near its mean; per channel means in the shape of the input with 1 for all other axes.

    Attributes:
        centred: the input less ``near``.
        near: about the mean, as a constant.
        offset: the mean less ``near``.
        var: biased.
        count: how many values count: a number, or a tensor, shape (1,) or (C,).
    """

    centred: Any
    near: Any
    offset: Any
    var: Any
    count: Any

    def mean(self) -> Any:
        """The mean, shape (C,)."""
        return ops.reshape(self.near + self.offset, (-1,))

    def variance(self) -> Any:
        """The biased variance, shape (C,)."""
        return ops.reshape(self.var, (-1,))

    def is_single(self, axis: int) -> Any:
        """True where one value counts: a boolean, or a tensor with the axes of the input."""
        if isinstance(self.count, int):
            return self.count == 1
        shape = [1] * len(self.centred.shape)
        shape[axis] = -1
        return ops.reshape(ops.equal(self.count, 1), shape)


def gather(inputs: Any, mask: Any, axis: int, *, synchronized: bool = False) -> Gathered:
    r"""The moments of each channel, exact for any mean, with gradients of any order.

    .. math:: \delta = \frac1n \sum_i w_i (x_i - m), \quad \mu = m + \delta, \quad
        v = \frac1n \sum_i w_i (x_i - m)^2 - \delta^2

    m is a constant for the gradient, which then comes to two sums: the mean of every 16th sample, or of all where there
    is a mask. The mean of a share s of some values is within :math:`\sigma / \sqrt s` of that of all, whatever they
    are, so :math:`\delta^2 \le 16 v`, and the difference loses no more than the last four bits. E[x^2] - E[x]^2 has
    m = 0. On TensorFlow's CPUs :math:`m = \mu`, by ``tensorflow_sums.about_the_mean``.

    Args:
        inputs: float32 or float64.
        mask: boolean, the axes of the input or 1; None where all values count.
        axis: of the channels.
        synchronized: whether over all replicas.

    References:
        Chan, Golub and LeVeque, Algorithms for computing the sample variance: analysis and recommendations, 1983.

    Example:
        >>> batch = gather(ops.convert_to_tensor([[1.0], [3.0]]), None, -1)
        >>> float(batch.mean()[0]), float(batch.variance()[0]), batch.count
        (2.0, 1.0, 2)
    """
    over = without_channels(inputs, axis)
    together = synchronized and synchronizing()
    if mask is not None or together:
        return _by_sums(inputs, mask, axis, over, together)
    count = values_per_channel(inputs, axis)
    values = ops.cast(count, inputs.dtype)
    sums = tensorflow_sums()
    if sums is not None:
        centred, near, offset, var = sums.about_the_mean(inputs, over, values)
        return Gathered(centred, near, offset, var, count)
    near = ops.mean(inputs[::EVERY] if 0 in over else inputs, over, keepdims=True)
    near = ops.cast(ops.stop_gradient(near), inputs.dtype)  # on JAX, Keras's means are in float32
    centred = inputs - near
    offset = ops.sum(centred, over, keepdims=True) / values
    # On CPUs XLA has a fast kernel for sums, not for sums of products: what follows the product makes it a plain sum.
    squares = ops.square(centred) + 0 * near
    var = ops.sum(squares, over, keepdims=True) / values - ops.square(offset)
    return Gathered(centred, near, offset, ops.relu(var), count)


def _by_sums(inputs: Any, mask: Any, axis: int, over: tuple[int, ...], together: bool) -> Gathered:
    count = _count(inputs, mask, axis, over)
    (total,) = _summed([_counting(inputs, mask, over)], False)
    if together:
        total, count = sum_of_replicas([total, count])
    values = one_or_more(count)
    near = ops.stop_gradient(total / values)
    centred = inputs - near
    sums = _summed([_counting(centred, mask, over), _counting(ops.square(centred), mask, over)], together)
    offset = sums[0] / values
    var = sums[1] / values - ops.square(offset)
    return Gathered(centred, near, offset, ops.relu(var), ops.reshape(count, (-1,)))


def one_or_more(count: Any) -> Any:
    """The count, and 1 where that is 0; ``ops.maximum`` would make float32 of float64 on torch."""
    return ops.where(count > 0, count, ops.ones_like(count))


def _counting(values: Any, mask: Any, over: tuple[int, ...]) -> Any:
    counting = values if mask is None else ops.where(mask, values, ops.zeros_like(values))
    return ops.sum(counting, over, keepdims=True)


def _summed(sums: list[Any], together: bool) -> list[Any]:
    return sum_of_replicas(sums) if together else sums


def _count(inputs: Any, mask: Any, axis: int, over: tuple[int, ...]) -> Any:
    """The number of values that count, in the input's dtype, with all axes."""
    shape = list(ops.shape(inputs))
    if mask is None:
        shape[axis] = 1
        return ops.sum(ops.ones(tuple(shape), dtype=inputs.dtype), over, keepdims=True)
    shape[axis] = ops.shape(mask)[axis]
    return ops.sum(ops.cast(ops.broadcast_to(mask, tuple(shape)), inputs.dtype), over, keepdims=True)
