"""The Keras activations that the compiled kernels know, and their names there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

Activation = Callable[[Any], Any]

# Keras's functions with their default arguments, and the names in ``normwise.kernels.reference_activations``. Its leaky
# ReLU has another slope (0.2) than PyTorch's and is not among them.
IN_KERNELS: dict[Activation, str] = {
    keras.activations.elu: "elu",
    keras.activations.gelu: "gelu",
    keras.activations.hard_swish: "hardswish",
    keras.activations.mish: "mish",
    keras.activations.relu: "relu",
    keras.activations.relu6: "relu6",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.silu: "silu",
    keras.activations.tanh: "tanh",
}


def activation_of(identifier: Any) -> Activation | None:
    """The function that Keras means by a name, a function or a layer; None for the identity.

    Example:
        >>> activation_of("relu") is keras.activations.relu, activation_of("linear")
        (True, None)
    """
    found: Activation | None = None if identifier is None else keras.activations.get(identifier)
    return None if found is keras.activations.linear else found


def name_in_kernels(activation: Activation | None) -> str | None:
    """The name under which the kernels do it, or None where they do not.

    Example:
        >>> name_in_kernels(keras.activations.silu), name_in_kernels(keras.activations.softmax)
        ('silu', None)
    """
    try:
        return IN_KERNELS.get(activation) if activation is not None else None
    except TypeError:  # a callable that cannot be a key
        return None
