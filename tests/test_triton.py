"""The Triton kernels under Triton's interpreter, in a process of their own: it is chosen before Triton is imported."""

from importlib.util import find_spec

import pytest

from tests.sessions import session

# Two that take about as long, so that they run beside each other.
KERNELS = "tests/kernels/triton_gpu"
GRID = f"{KERNELS}/test_triton_grid.py"
SESSIONS = {"the grid": [GRID], "all others": [KERNELS, f"--ignore={GRID}"]}


@pytest.mark.parametrize("name", SESSIONS)
def test_the_kernels_pass_under_the_interpreter(name: str) -> None:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    found = session(*SESSIONS[name], seconds=1800, TRITON_INTERPRET="1")
    assert found.returncode == 0, f"{found.stdout[-20000:]}\n{found.stderr[-5000:]}"
