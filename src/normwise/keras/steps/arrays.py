"""Tensors of Keras's backends behind Python's operators, as the estimators use them."""

from __future__ import annotations

from typing import Any

from keras import ops
from keras.backend import is_int_dtype, standardize_dtype


class Array:
    """A tensor with the operators of NumPy's arrays, booleans among numbers included, on every backend.

    Estimators are written with operators only. TensorFlow's do not mix dtypes, and neither its tensors nor JAX's have
    ``where``; ``keras.ops`` has one rule for all.

    Args:
        value: a tensor or a number.

    Example:
        >>> count = Array(ops.convert_to_tensor([0.0, 3.0]))
        >>> Array.of(2.0 / (count + (count == 0))).tolist()
        [2.0, 0.6666666865348816]
    """

    __hash__ = None  # type: ignore[assignment]  # == compares the elements
    __array_ufunc__ = None  # NumPy numbers leave the operators to this class

    def __init__(self, value: Any) -> None:
        self.value = value

    @staticmethod
    def of(result: Any) -> Any:
        """The NumPy array behind what came out."""
        return ops.convert_to_numpy(_value(result))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.value.shape)

    def where(self, condition: Any, other: Any) -> Array:
        """This where the condition holds, else the other."""
        return Array(ops.where(_value(condition), self.value, _value(other)))

    def __add__(self, other: Any) -> Array:
        return Array(ops.add(self.value, _value(other)))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Array:
        return Array(ops.subtract(self.value, _value(other)))

    def __rsub__(self, other: Any) -> Array:
        return Array(ops.subtract(_value(other), self.value))

    def __mul__(self, other: Any) -> Array:
        return Array(ops.multiply(self.value, _value(other)))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Array:
        return Array(ops.divide(self.value, _value(other)))

    def __rtruediv__(self, other: Any) -> Array:
        return Array(ops.divide(_value(other), self.value))

    def __pow__(self, other: Any) -> Array:
        return Array(ops.power(self.value, _value(other)))

    def __rpow__(self, other: Any) -> Array:
        # outside of jit, JAX would compile the power again for each exponent of an integer's dtype (a number of steps)
        whole = is_int_dtype(standardize_dtype(self.value.dtype))
        return Array(ops.power(_value(other), ops.cast(self.value, "float32") if whole else self.value))

    def __gt__(self, other: Any) -> Array:
        return Array(ops.greater(self.value, _value(other)))

    def __ge__(self, other: Any) -> Array:
        return Array(ops.greater_equal(self.value, _value(other)))

    def __lt__(self, other: Any) -> Array:
        return Array(ops.less(self.value, _value(other)))

    def __eq__(self, other: object) -> Array:  # type: ignore[override]  # as NumPy's
        return Array(ops.equal(self.value, _value(other)))

    def __and__(self, other: Any) -> Array:
        return Array(ops.logical_and(self.value, _value(other)))

    __rand__ = __and__

    def __invert__(self) -> Array:
        return Array(ops.logical_not(self.value))


def _value(operand: Any) -> Any:
    return operand.value if isinstance(operand, Array) else operand
