"""Fixtures that make Triton's interpreter fast, for every test of the kernels."""

from tests.kernels.triton_gpu.interpreted import (
    a_dtype_is_looked_up_once,
    sums_of_integers_are_not_made_twice,
    the_language_is_replaced_once_for_a_launch,
)

__all__ = [
    "a_dtype_is_looked_up_once",
    "sums_of_integers_are_not_made_twice",
    "the_language_is_replaced_once_for_a_launch",
]
