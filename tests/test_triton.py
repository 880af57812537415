"""The Triton kernels under Triton's interpreter, in a process of their own: it is chosen before Triton is imported."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SESSION = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]


# Two that take about as long, so that they run beside each other.
KERNELS = "tests/kernels/triton_gpu"
GRID = f"{KERNELS}/test_triton_grid.py"
SESSIONS = {"the grid": [GRID], "all others": [KERNELS, f"--ignore={GRID}"]}


@pytest.mark.parametrize("name", SESSIONS)
def test_the_kernels_pass_under_the_interpreter(name: str) -> None:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed; the extra `dev` has it on Linux")
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    session = subprocess.run(
        [*SESSION, *SESSIONS[name]],
        cwd=ROOT,
        env={**outer, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert session.returncode == 0, f"{session.stdout[-20000:]}\n{session.stderr[-5000:]}"
