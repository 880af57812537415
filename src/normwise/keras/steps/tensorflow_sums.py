"""The sums of the layer on TensorFlow's tensors, in the form for which XLA has a fast kernel on CPUs.

XLA's kernel sums what lies in memory. A sum of products it computes without storing them, channel by channel in strides
of all channels: in the backward of a layer that alone takes longer than all else. What is added to a product here is
zero, which XLA cannot know (0 times a number that may be NaN): it stores the products, and its kernel sums them.

With ``tensorflow_kernels.py``, which is for where XLA does not compile, the only file that imports tensorflow.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from normwise.keras.steps.gather import EVERY


def near_mean(inputs: Any, over: tuple[int, ...]) -> Any:
    """A constant near the mean: that of one value of each sample, from the middle; without other axes, of some samples.

    Not of the first ones in memory, which for padded sequences and images are often of another kind than the rest.

    Args:
        inputs: any floating-point numbers.
        over: the axes that are not of the channels.

    Returns:
        a tensor of as many axes, with 1 for those that are not of the channels.
    """
    some = [slice(None)] * len(inputs.shape)
    for axis in over[1:]:
        middle = (inputs.shape[axis] or 1) // 2
        some[axis] = slice(middle, middle + 1)
    if len(over) == 1:
        some[over[0]] = slice(None, None, EVERY)
    return tf.stop_gradient(tf.reduce_mean(inputs[tuple(some)], over, keepdims=True))


def about_the_mean(inputs: Any, over: tuple[int, ...], values: Any) -> tuple[Any, Any, Any, Any]:
    r"""The parts of ``Gathered`` before the count, by sums one after the other, each of one array.

    .. math:: \delta = \frac1n \sum_i (x_i - m), \quad \mu = m + \delta, \quad
        v = \frac1n \sum_i (x_i - m - \delta)^2

    Each array is dead when its sum is known, and its memory serves the next. The squares are about the mean itself, so
    m may be some deviations from it.

    Args:
        inputs: float32 or float64.
        over: the axes that are not of the channels.
        values: their number of values, in the dtype of the inputs.

    Returns:
        the input less its mean; the mean as a constant; zero, with the gradient of the mean; and the biased variance.
    """
    near = near_mean(inputs, over)
    shifted = inputs - near
    offset = tf.reduce_sum(shifted, over, keepdims=True) / values
    known = tf.stop_gradient(offset)
    centred, rest = shifted - known, offset - known
    squares = tf.square(centred) + 0 * known
    # Of a derivative of the second order, the square of zero has its part.
    var = tf.reduce_sum(squares, over, keepdims=True) / values - tf.square(rest)
    return centred, near + known, rest, var


@tf.custom_gradient
def scaled(centred: Any, factor: Any, total: Any) -> Any:
    """``centred * factor + total``, and its gradients, of any order, by the kernel for sums.

    Args:
        centred: any shape.
        factor: of as many axes, 1 along those over which its gradient is summed.
        total: the same.
    """

    def gradients(dy: Any) -> tuple[Any, Any, Any]:
        products = dy * centred + 0 * tf.stop_gradient(factor)
        return dy * factor, _sum_to(products, factor), _sum_to(dy, total)

    return centred * factor + total, gradients


def _sum_to(values: Any, like: Any) -> Any:
    return tf.reduce_sum(values, [axis for axis, size in enumerate(like.shape) if size == 1], keepdims=True)
