"""A Keras batch norm as ``recalibrate`` and ``adapt`` see it: its variables, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from normwise.errors import NormwiseError
from normwise.estimators import RunningStatistics
from normwise.keras.layers.domains import PerDomainBatchNormalization
from normwise.keras.steps.checks_mask import along_input
from normwise.keras.steps.inputs import given
from normwise.kernels import reference
from normwise.moments import Moments
from normwise.recalibration.layer import Hear
from normwise.recalibration.standard_error import distance

F64 = NDArray[np.float64]

AT_ONCE = 1 << 20
"""The number of values that are taken to float64 at a time: a piece that the processor's cache can hold."""


class KerasLayer:
    """The ``normwise.recalibration.layer.Layer`` of Keras.

    Args:
        name: of the layer in the model.
        norm: a batch norm that is built; of one with domains, the one that is chosen.
    """

    def __init__(self, name: str, norm: Any) -> None:
        self.name, self.norm = name, norm
        self._row = norm.domains.index(norm.domain) if isinstance(norm, PerDomainBatchNormalization) else None
        self.channels = int(norm.moving_mean.shape[-1])

    @property
    def eps(self) -> float:
        """The layer's."""
        found: float = self.norm.epsilon
        return found

    def read(self) -> tuple[F64, F64]:
        """The mean and the variance that the layer has."""
        mean, var = (ops.convert_to_numpy(variable.value).astype(np.float64) for variable in self._variables())
        return (mean, var) if self._row is None else (mean[self._row], var[self._row])

    def fresh(self) -> tuple[F64, F64]:
        """0 and 1."""
        return np.zeros(self.channels), np.ones(self.channels)

    def write(self, mean: F64, var: F64) -> None:
        """Put these in the place of the moving statistics."""
        for variable, value in self._for_variables(mean, var):
            variable.assign(_cast(value, variable.dtype))

    def writes(self, mean: F64, var: F64) -> list[Callable[[], None]]:
        """Functions that write these into the variables, in their dtypes.

        Raises:
            NormwiseError: a variable's dtype cannot hold them.
        """
        found: list[Callable[[], None]] = []
        for variable, value in self._for_variables(mean, var):
            fitting = _cast(value, variable.dtype)
            if not bool(ops.all(ops.isfinite(fitting))) and np.isfinite(value).all():
                raise NormwiseError(
                    f"the statistics of batch norm {self.name!r}, up to {float(np.abs(value).max()):.3g}, do not fit "
                    f"its variables of {variable.dtype}: the model is as it was; keep these in float32."
                )
            found.append(partial(variable.assign, fitting))
        return found

    def counter_writes(self, statistics: RunningStatistics) -> list[Callable[[], None]]:
        """Functions that write ``updates`` and ``count``, where the layer has them."""
        found: list[Callable[[], None]] = []
        for counter, number in (("updates", statistics.updates.max()), ("count", statistics.count)):
            variable = getattr(self.norm, counter, None)
            if isinstance(variable, keras.Variable):
                found.append(partial(variable.assign, ops.cast(number, variable.dtype)))
        return found

    def moved(self, before: tuple[F64, F64], after: tuple[F64, F64]) -> F64:
        """The distance of statistics from those before, in standard deviations of those after."""
        with np.errstate(all="ignore"):
            far: F64 = distance(*before, *after, self.eps)
        return far

    def restorer(self) -> Callable[[], None]:
        """A function that gives the layer the mean and variance that it has now, byte for byte."""
        row = slice(None) if self._row is None else self._row
        before = [(variable, ops.convert_to_numpy(variable.value).copy()) for variable in self._variables()]

        def back() -> None:
            for variable, value in before:
                now = ops.convert_to_numpy(variable.value).copy()
                now[row] = value[row]
                variable.assign(now)

        return back

    def listen(self, hear: Hear) -> Callable[[], None]:
        """Call ``hear`` before every call of the layer."""

        def around(below: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **named: Any) -> Any:
                x = self.input_in(args, named)
                if x is not None:
                    mask = args[2] if len(args) > 2 else named.get("mask")
                    if mask is None and named.get("residual") is not None:
                        mask = getattr(x, "_keras_mask", None)  # of several tensors, Keras hands on the mask of none
                    axis = self.norm.axis % len(x.shape) - len(x.shape)
                    seen = given(x, mask, None, axis)
                    hear(moments(seen.inputs, seen.mask, axis), seen.values_per_sample(axis))
                return below(*args, **named)

            return call

        return cover(self.norm, around)

    def input_in(self, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The input of a call; None where there is nothing to gather, or the layer's own error to come."""
        x: Any = args[0] if args else named.get("inputs")
        shape = tuple(getattr(x, "shape", ()))
        fits = len(shape) > 1 and 0 not in shape and shape[self.norm.axis % len(shape)] == self.channels
        return x if fits else None

    def _variables(self) -> tuple[Any, Any]:
        return self.norm.moving_mean, self.norm.moving_variance

    def _for_variables(self, mean: F64, var: F64) -> list[tuple[Any, NDArray[Any]]]:
        """The variables whole, where a row of them is meant."""
        found: list[tuple[Any, NDArray[Any]]] = []
        for variable, value in zip(self._variables(), (mean, var), strict=True):
            if self._row is not None:
                rows = ops.convert_to_numpy(variable.value).astype(np.float64)
                rows[self._row] = value
                value = rows
            found.append((variable, value))
        return found


def cover(layer: Any, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Cover a layer's ``call`` by one of the instance, which Keras's own machinery looks up like any other.

    Functions that were compiled before do not notice.

    Args:
        layer: any layer.
        around: makes the new ``call`` from the one below it.

    Returns:
        a function that takes it away.

    Example:
        >>> layer = keras.layers.ReLU()
        >>> uncover = cover(layer, lambda below: lambda *args, **named: 2 * below(*args, **named))
        >>> float(layer(np.ones((1, 1)))[0, 0]), uncover(), float(layer(np.ones((1, 1)))[0, 0])
        (2.0, None, 1.0)
    """
    was = vars(layer).get("call")
    vars(layer)["call"] = around(layer.call)

    def uncover() -> None:
        vars(layer).pop("call", None)
        if was is not None:
            vars(layer)["call"] = was

    return uncover


def _cast(value: NDArray[Any], dtype: str) -> Any:
    """The value in a variable's dtype; infinite where that is too narrow."""
    with np.errstate(over="ignore"):
        return ops.cast(value, dtype)


def moments(inputs: Any, mask: Any, axis: int) -> Moments:
    """The moments of a batch in float64, as they are: with NaN where it has NaN.

    Args:
        inputs: a tensor or array of any rank.
        mask: as the layer takes it, or None.
        axis: of the channels.

    Returns:
        mean, biased variance and count, shape (C,), NumPy's.

    Example:
        >>> moments(np.array([[1.0], [3.0]]), None, 1)
        Moments(mean=array([2.]), var=array([1.]), count=array([2.]))
    """
    axis %= len(inputs.shape)
    weights: NDArray[Any] | None = None if mask is None else ops.convert_to_numpy(along_input(mask, inputs, axis))
    x = ops.convert_to_numpy(inputs)
    rows = len(x) if axis == 0 else max(1, AT_ONCE * len(x) // max(1, x.size))
    channels = x.shape[axis]
    found = Moments(np.zeros(channels), np.zeros(channels), np.zeros(channels))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(x), rows):
            piece = None if weights is None else weights if len(weights) == 1 else weights[start : start + rows]
            part = reference.moments(x[start : start + rows], weights=piece, axis=axis)
            found = found.merge(Moments(part.mean, part.var, np.broadcast_to(part.count, channels)))
    return found
