"""The operations on whole models on an architecture of each family, in processes of their own that find the packages.

By hand: ``PYTHONPATH=.venv/zoo pytest tests/benchmarks/zoo/test_timm.py``, with ``KERAS_BACKEND=torch`` for Keras's.
"""

import os
import sys
from pathlib import Path

import pytest

from tests.sessions import session

PACKAGES = Path(sys.prefix) / "zoo"
"""The folder into which ``make setup`` puts timm and torchvision."""


@pytest.mark.parametrize("source", ["timm", "torchvision", "keras_applications"])
def test_one_architecture_of_each_family_of(source: str) -> None:
    if "CI" not in os.environ and not PACKAGES.exists():
        pytest.skip(f"timm and torchvision are not in {PACKAGES}; `make setup` puts them there")
    own = {"KERAS_BACKEND": "torch"} if source == "keras_applications" else {"PYTHONPATH": str(PACKAGES)}
    found = session(f"tests/benchmarks/zoo/test_{source}.py", seconds=3600, **own)
    assert found.returncode == 0, f"{found.stdout[-20000:]}\n{found.stderr[-5000:]}"
