"""Fixture that makes Triton's interpreter fast, for every test of the kernels."""

from tests.kernels.triton_gpu.interpreted import interpreted_fast

__all__ = ["interpreted_fast"]
