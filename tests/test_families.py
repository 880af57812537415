"""The operations on whole models on an architecture of each family, in processes of their own that find the packages.

By hand: ``PYTHONPATH=.venv/zoo pytest tests/benchmarks/zoo/test_timm.py``, with ``KERAS_BACKEND=torch`` for Keras's.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SESSION = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
PACKAGES = Path(sys.prefix) / "zoo"
"""The folder into which ``make setup`` puts timm and torchvision."""


@pytest.mark.parametrize("source", ["timm", "torchvision", "keras_applications"])
def test_one_architecture_of_each_family_of(source: str) -> None:
    if "CI" not in os.environ and not PACKAGES.exists():
        pytest.skip(f"timm and torchvision are not in {PACKAGES}; `make setup` puts them there")
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    own = {"KERAS_BACKEND": "torch"} if source == "keras_applications" else {"PYTHONPATH": str(PACKAGES)}
    session = subprocess.run(
        [*SESSION, f"tests/benchmarks/zoo/test_{source}.py"],
        cwd=ROOT,
        env={**outer, **own, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert session.returncode == 0, f"{session.stdout[-20000:]}\n{session.stderr[-5000:]}"
