"""The device of these tests: the CPU, where the interpreter runs the kernels, or a GPU (``make test DEVICE=cuda``)."""

import os

DEVICE = os.environ.get("NORMWISE_TEST_DEVICE", "cpu")
