"""Arguments that Keras's layer accepts unchecked: those that would fail later or give wrong results silently."""

from __future__ import annotations

import math
from numbers import Real
from operator import index
from typing import Any

import numpy as np


def axis_of(axis: Any) -> int:
    """The one axis that is meant; Keras 2 wrote a list of one into its files.

    Args:
        axis: a whole number, or a list of one.

    Raises:
        TypeError: no whole number.
        ValueError: a list of several, or of none.

    Example:
        >>> axis_of([3]), axis_of(-1)
        (3, -1)
    """
    if isinstance(axis, list | tuple) and len(axis) != 1:
        raise ValueError(
            f"axis must be one axis, received {axis!r}: Keras 3 has one axis of channels, so put several into one by "
            "keras.layers.Reshape first."
        )
    one = axis[0] if isinstance(axis, list | tuple) else axis
    try:
        if isinstance(one, bool | np.bool_):
            raise TypeError
        return index(one)
    except TypeError:
        raise TypeError(
            f"axis must be a whole number, received {axis!r}: pass -1 where the channels come last, or 1 where they "
            "come first."
        ) from None


def check_shape(shape: Any, axis: int, called: str) -> None:
    """Refuse inputs that have no axis of channels of a known length.

    Args:
        shape: of the inputs, as Keras gives it to ``build``.
        axis: of the channels.
        called: the layer's class.

    Raises:
        TypeError: several inputs, or none.
        ValueError: too few axes, or an unknown length.
    """
    if not isinstance(shape, tuple | list) or not all(isinstance(length, int | None) for length in shape):
        raise TypeError(
            f"{called} takes one tensor, received inputs of shapes {shape}: call it on each, or join them with "
            "keras.layers.Concatenate."
        )
    rank = len(shape)
    if not -rank <= axis < rank:
        allowed = f"pass an axis from {-rank} to {rank - 1}" if rank else "give the input an axis of channels"
        raise ValueError(
            f"inputs of rank {rank}, of shape {tuple(shape)}, have no axis {axis}, received axis={axis}: {allowed}."
        )
    if shape[axis] is None:
        raise ValueError(
            f"the number of channels must be known, received axis={axis} for inputs of rank {rank}, of shape "
            f"{tuple(shape)}: give that axis a length in keras.Input, or make it uniform in a ragged tensor."
        )


def number_between(name: str, value: Any, low: float, high: float) -> float:
    """A setting that is a number within bounds.

    Args:
        name: of the argument.
        value: what was received.
        low: the least that it may be.
        high: the most; infinite where any finite number will do.

    Raises:
        TypeError: no number.
        ValueError: not within the bounds, or NaN.

    Example:
        >>> number_between("momentum", 0.9, 0, 1)
        0.9
    """
    bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more, and finite"
    sentence = f"{name} must be a number {bounds}, received {value!r}: pass for example {_EXAMPLES[name]}."
    if isinstance(value, bool | np.bool_ | str | bytes | None):
        raise TypeError(sentence)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(sentence) from None
    if not (low <= number <= high and math.isfinite(number)):
        raise ValueError(sentence)
    return number


_EXAMPLES = {"momentum": 0.99, "renorm_momentum": 0.99, "epsilon": 1e-3}


def check_clipping(clipping: Any) -> None:
    """Refuse bounds of renormalization that bound nothing as they are meant to.

    Args:
        clipping: ``rmin``, ``rmax`` and ``dmax``, each of them optional; or None.

    Raises:
        TypeError: no dict, or something else than numbers.
        ValueError: an unknown key, a bound below 0, or ``rmin`` above ``rmax``.
    """
    if clipping is None:
        return
    if not isinstance(clipping, dict):
        raise TypeError(
            f"renorm_clipping must be a dict, received {type(clipping).__name__}: "
            "pass for example {'rmax': 3.0, 'dmax': 5.0}."
        )
    unknown = sorted(str(key) for key in clipping if key not in ("rmin", "rmax", "dmax"))
    if unknown:
        raise ValueError(  # the first words of these are Keras's own
            f"Received invalid keys for renorm_clipping, {', '.join(unknown)}: it has rmin, rmax and dmax, each of "
            "them optional."
        )
    for name, bound in clipping.items():
        if bound is None:
            continue
        if isinstance(bound, bool | str) or not isinstance(bound, Real):
            raise TypeError(f"{name} should be a number, received {bound!r}: pass for example {_BOUNDS[name]}.")
        if not float(bound) >= 0:
            raise ValueError(f"{name} should be non-negative, received {bound!r}: pass for example {_BOUNDS[name]}.")
    rmin, rmax = clipping.get("rmin"), clipping.get("rmax")
    if rmin is not None and rmax is not None and rmin > rmax:
        raise ValueError(f"rmax should be no less than rmin, received rmax={rmax!r} and rmin={rmin!r}: swap them.")


_BOUNDS = {"rmin": 0.3, "rmax": 3.0, "dmax": 5.0}


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither True nor False, nor 1 nor 0: a text is true, whatever it says.

    Raises:
        TypeError: something else.
    """
    if not isinstance(value, bool | np.bool_) and not (isinstance(value, int) and value in (0, 1)):
        raise TypeError(f"{name} must be True or False, received {value!r}: pass one of the two.")
