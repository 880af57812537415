"""Sessions of pytest in processes of their own, for tests that need another process than those beside them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]


def session(*arguments: str, seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """A session that has ended, on one thread.

    Args:
        arguments: of pytest: files and folders.
        seconds: after them the process is killed.
        environment: variables to set, beside those of this process that are not pytest's.
    """
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env={**outer, **environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
