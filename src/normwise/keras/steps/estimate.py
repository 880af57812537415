"""The estimate step: how a batch enters moving statistics, which stay finite, and the variables that hold them."""

from __future__ import annotations

from typing import Any

from keras import ops

from normwise.estimators import Estimator, RunningStatistics
from normwise.keras.steps.arrays import Array
from normwise.moments import Moments

NAMES = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")
"""The names of all statistics that Keras's layer may have, in the order in which its files have them."""


def wide(dtype: str) -> str:
    """The dtype of statistics: float64 for a layer in float64, and else float32.

    With ``momentum=0.99`` a step is too small for bfloat16 long before the average is there, and float16 ends at a
    deviation of 256.

    Args:
        dtype: of the layer's variables.

    Example:
        >>> wide("bfloat16"), wide("float32"), wide("float64")
        ('float32', 'float32', 'float64')
    """
    return "float64" if dtype == "float64" else "float32"


def widen(layer: Any) -> None:
    """Give a built Keras layer statistics in the dtype that ours has, with the values that they have.

    Args:
        layer: its other variables, and the order of all, stay.
    """
    dtype = wide(layer.variable_dtype)
    held = [(name, getattr(layer, name)) for name in NAMES if getattr(layer, name, None) is not None]
    if all(variable.dtype == dtype for _, variable in held):
        return
    locked = layer._tracker.locked
    layer._tracker.unlock()
    for name, variable in held:
        layer._untrack_variable(variable)
        wider = layer.add_weight(
            shape=variable.shape, name=name, initializer="zeros", dtype=dtype, trainable=False, autocast=False
        )
        wider.assign(ops.cast(variable.value, dtype))
        setattr(layer, name, wider)
    if locked:
        layer._tracker.lock()


def moved(moving: Any, batch: Any, momentum: float) -> Any:
    """Keras's exponential average, in the dtype of the moving value.

    Args:
        moving: so far.
        batch: of the new batch.
        momentum: Keras's: the weight of what was so far.
    """
    batch = ops.cast(batch, moving.dtype)
    return moving * momentum + batch * (1.0 - momentum)


def finite(statistics: list[Any]) -> Any:
    """True where all of several statistics of shape (C,) are finite."""
    found = ops.isfinite(statistics[0])
    for statistic in statistics[1:]:
        found = ops.logical_and(found, ops.isfinite(statistic))
    return found


def enter(variables: list[Any], new: list[Any], count: Any) -> None:
    """Assign what statistics became, channel by channel.

    Only where that is finite, and where two values or more counted.

    Args:
        variables: Keras's, of shape (C,).
        new: their values after the batch.
        count: how many values per channel counted.
    """
    if isinstance(count, int) and count < 2:
        return
    enters = finite(new) if isinstance(count, int) else ops.logical_and(finite(new), count > 1)
    for variable, value in zip(variables, new, strict=True):
        old = ops.convert_to_tensor(variable)
        variable.assign(ops.where(enters, ops.cast(value, old.dtype), old))


def estimated(estimator: Estimator, statistics: list[Any], batch: list[Any], count: Any) -> list[Any]:
    """Statistics after one more batch, by an estimator.

    Args:
        estimator: how.
        statistics: mean and variance, shape (C,), updates and counts, as tensors.
        batch: mean and biased variance, shape (C,).
        count: how many values per channel: a number or a tensor.

    Returns:
        as ``statistics``, with the dtypes that came out.
    """
    so_far = RunningStatistics(*(Array(value) for value in statistics))
    mean, var = (Array(value) for value in batch)
    moments = Moments(mean, var, count if isinstance(count, int) else Array(count))
    after = estimator.update(so_far, moments)
    return [getattr(after, field).value for field in ("mean", "var", "updates", "count")]
