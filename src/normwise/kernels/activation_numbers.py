"""What the compiled kernels call the activations, for the rooms of every framework."""

from __future__ import annotations

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
}
# Their slope is told by one bit per element, so that nothing else of the residual has to be kept for the backward.
ONE_BIT = frozenset({"relu", "leaky_relu", "relu6"})
