"""The numbers of the activations in the compiled kernels, for the rooms of every framework.

The name of one that has a setting may be followed by it: ``"leaky_relu:0.2"`` has the slope 0.2 below 0, and
``"elu:0.5"`` the alpha 0.5. A setting is finite and not 0.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache

# The numbers that cpp/activations.h gives them.
ACTIVATIONS = {
    None: 0,
    "relu": 1,
    "leaky_relu": 2,
    "relu6": 3,
    "hardswish": 4,
    "elu": 5,
    "gelu": 6,
    "mish": 7,
    "sigmoid": 8,
    "silu": 9,
    "tanh": 10,
    "hardsigmoid": 11,
    "gelu_tanh": 12,
}
WITH_SETTING = frozenset({"elu", "leaky_relu"})
# Their slope is told by one bit per element, so that nothing else of the residual has to be kept for the backward.
ONE_BIT = frozenset({"relu", "leaky_relu", "relu6"})


def parted(name: str) -> tuple[str, float | None]:
    """The activation and its setting, None where it is the usual one.

    Raises:
        ValueError: there is no such activation, or it has no such setting.

    Example:
        >>> parted("relu"), parted("leaky_relu:0.2")
        (('relu', None), ('leaky_relu', 0.2))
    """
    kind, colon, text = name.partition(":")
    if kind not in ACTIVATIONS or (colon and kind not in WITH_SETTING):
        raise ValueError(name)
    setting = float(text) if colon else None
    if setting is not None and (not math.isfinite(setting) or setting == 0):
        raise ValueError(name)
    return kind, setting


@lru_cache
def number_of(activation: str | None) -> int:
    """The number of an activation: in its lowest byte the kind, in the others the upper seven bytes of the setting.

    Example:
        >>> number_of("relu"), number_of("leaky_relu:2.0") == (0x4000000000000000 | 2)
        (1, True)
    """
    kind, setting = (None, None) if activation is None else parted(activation)
    if setting is None:
        return ACTIVATIONS[kind]
    (bits,) = struct.unpack("<q", struct.pack("<d", setting))
    return int(bits) & ~0xFF | ACTIVATIONS[kind]


@lru_cache
def name_of(number: int) -> str | None:
    """The activation of a number; a setting comes back with 44 binary digits.

    Example:
        >>> name_of(1), name_of(number_of("elu:0.5"))
        ('relu', 'elu:0.5')
    """
    kind = next(name for name, each in ACTIVATIONS.items() if each == number & 0xFF)
    (setting,) = struct.unpack("<d", struct.pack("<q", number & ~0xFF))
    return kind if number & ~0xFF == 0 else f"{kind}:{setting!r}"


def is_exact(activation: str | None) -> bool:
    """True if the activation's number holds every digit of its setting as a double; it always holds those of a float.

    Example:
        >>> is_exact("relu"), is_exact("leaky_relu:0.25"), is_exact("leaky_relu:0.2")
        (True, True, False)
    """
    return activation is None or parted(name_of(number_of(activation)) or "") == parted(activation)


def has_one_bit(activation: str | None) -> bool:
    """True if the activation is one of ``ONE_BIT``, with any setting.

    Example:
        >>> has_one_bit("leaky_relu:0.2"), has_one_bit("elu"), has_one_bit(None)
        (True, False, False)
    """
    return activation is not None and activation.partition(":")[0] in ONE_BIT
