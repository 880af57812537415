"""The layers for Keras on each of its backends, in a process of its own: Keras has one backend per process."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SESSION = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_all_that_is_for_keras_passes_on(backend: str) -> None:
    if "CI" not in os.environ and (find_spec("keras") is None or find_spec(backend) is None):
        pytest.skip(f"Keras or its backend {backend} is not installed; the extra `dev` has both")
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**outer, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    session = subprocess.run(
        [
            *SESSION,
            "src/normwise/keras",
            "src/normwise/callbacks/keras",
            "src/normwise/surgery/keras_layers.py",
            "tests/keras",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert session.returncode == 0, f"{session.stdout[-20000:]}\n{session.stderr[-5000:]}"
