"""The layer on TensorFlow's CPU, where XLA does not compile it: by TensorFlow's own kernels, in few passes.

With ``tensorflow_sums.py`` the only file of this room that imports tensorflow; it is imported on that backend, when a
layer is first called. Keras compiles with XLA only where there is another device than the CPU, or where it is told to.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import tensorflow as tf

from normwise.keras.steps.activate import IN_KERNELS
from normwise.keras.steps.normalize import Normalized
from normwise.keras.steps.tensorflow_sums import near_mean

try:
    from tensorflow.python.framework.ops import get_default_graph
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError:  # they are no part of its interface; without them the numbers are the same
    GraphOrParentsInXlaContext = None

# The number of elements from which on TensorFlow's batch normalization is faster than a handful of its operations.
FUSED_FROM = 100_000
USUAL_BATCH = 32  # what an unknown batch size is taken for, to decide that
_FUNCTIONS = {name: function for function, name in IN_KERNELS.items()}


@cache
def on_cpu() -> bool:
    """True where TensorFlow has no other device than the CPU."""
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


def compiled_by_xla() -> bool:
    """True while a function is traced that XLA is to compile."""
    return GraphOrParentsInXlaContext is not None and bool(GraphOrParentsInXlaContext(get_default_graph()))


def serves(x: Any, axis: int) -> bool:
    """True if the kernels take the call: they take channels that come last, in 32 bits or less."""
    floats = x.dtype.is_floating and x.dtype.size in (2, 4)
    return floats and axis % len(x.shape) == len(x.shape) - 1 and on_cpu() and not compiled_by_xla()


def by_batch(
    x: Any, scale: Any, shift: Any, epsilon: float, axis: int, activation: str | None, residual: Any
) -> Normalized:
    """Normalize by the batch, add the residual, and activate.

    Args:
        x: any rank from 2 on, the channels last.
        scale: shape (C,), float32; or None.
        shift: the same.
        epsilon: added to the variance.
        axis: of the channels, the last.
        activation: a name that the kernels know, or None.
        residual: the shape and the dtype of x, or None.

    Returns:
        the output, float32, and the moments, which are constants for any derivative.
    """
    x = tf.cast(x, tf.float32)
    channels = x.shape[axis]
    gamma = tf.ones(channels) if scale is None else scale
    beta = tf.zeros(channels) if shift is None else shift
    near = near_mean(x, tuple(range(len(x.shape) - 1)))
    elements = math.prod(USUAL_BATCH if size is None else size for size in x.shape)
    by = _by_one_kernel if elements >= FUSED_FROM else _by_operations
    y, mean, var = by(x - near, gamma, beta, epsilon)
    if residual is not None:
        y = y + tf.cast(residual, y.dtype)
    if activation is not None:
        y = _FUNCTIONS[activation](y)
    return Normalized(y, tf.reshape(near, [channels]) + tf.stop_gradient(mean), tf.stop_gradient(var))


def move(moving_mean: Any, moving_variance: Any, batch: Normalized, momentum: float) -> bool:
    """False: the estimate step is left to ``keras.ops``."""
    _ = moving_mean, moving_variance, batch, momentum
    return False


def _by_one_kernel(x: Any, scale: Any, shift: Any, epsilon: float) -> tuple[Any, Any, Any]:
    images = x if len(x.shape) == 4 else tf.reshape(x, (1, 1, -1, x.shape[-1]))
    none = tf.zeros(0)
    y, mean, var, *_ = tf.raw_ops.FusedBatchNormV3(
        x=images, scale=scale, offset=shift, mean=none, variance=none, epsilon=epsilon, is_training=True
    )
    n = tf.cast(tf.size(x) / x.shape[-1], tf.float32)
    return (y if len(x.shape) == 4 else tf.reshape(y, tf.shape(x))), mean, var * ((n - 1) / n)


def _by_operations(x: Any, scale: Any, shift: Any, epsilon: float) -> tuple[Any, Any, Any]:
    others = tuple(range(len(x.shape) - 1))

    @tf.custom_gradient  # for the few passes of its backward; of the formulas in it, any derivative is right
    def normalized(x: Any, scale: Any, shift: Any) -> Any:
        n = tf.cast(tf.size(x) / x.shape[-1], x.dtype)
        mean = tf.reduce_mean(x, others)
        var = tf.reduce_mean(tf.math.squared_difference(x, mean), others)
        deviation = tf.math.rsqrt(var + epsilon)
        factor = deviation * scale

        def gradients(dy: Any, *_: Any) -> tuple[Any, Any, Any]:
            of_shift = tf.reduce_sum(dy, others)
            of_scale = (tf.reduce_sum(dy * x, others) - mean * of_shift) * deviation
            slope = -factor * deviation * of_scale / n
            return dy * factor + (x * slope - (factor * of_shift / n + mean * slope)), of_scale, of_shift

        return (x * factor + (shift - mean * factor), mean, var), gradients

    found: tuple[Any, Any, Any] = normalized(x, scale, shift)
    return found
