"""A check whether the Triton kernels can run here, without importing Triton."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec


@cache
def importable() -> bool:
    """True if Triton is installed; it comes with PyTorch's CUDA and ROCm builds."""
    return find_spec("triton") is not None


# Whether Triton's interpreter runs the kernels in NumPy, on CPU tensors. The environment says so before Triton is
# imported, and a kernel stays what it was when it was defined.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
