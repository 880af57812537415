"""The stamp of a result: the versions and the digest of the code that it depends on, the machine and the date."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from normwise.lab.experiment import FOLDER, file
from normwise.lab.running import devices, reach

PACKAGES = {"normwise": "normwise", "torch": "torch", "numpy": "numpy", "sklearn": "scikit-learn"}
"""Name in the stamp -> name of the distribution."""


def versions() -> dict[str, str]:
    """The versions that numbers can depend on; a package that is not installed has an empty one."""
    found = {"python": platform.python_version()}
    for name, distribution in PACKAGES.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:
            found[name] = ""
    return found


def origin(experiment: str, folder: Path = FOLDER) -> str:
    """A digest of everything but the settings that an outcome depends on.

    It covers the code of the experiment and of every file of the package that it reaches by import, and the versions.

    Args:
        experiment: its name.
        folder: where it is looked for.

    Raises:
        UnknownName: no experiment is called so.
    """
    parts = [experiment, reach.digest(file(experiment, folder)), repr(sorted(versions().items()))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def stamp(*, origin: str, seconds: float, workers: int, device: str = devices.CPU) -> dict[str, Any]:
    """The stamp of a result: where and when it was made.

    Args:
        origin: see the function of this name.
        seconds: what the trials took, added up over all workers and all interrupted runs.
        workers: how many processes worked side by side.
        device: on which the trials ran, in PyTorch's words.
    """
    return {
        **versions(),
        "device": cpu() if device == devices.CPU else devices.words(device),
        "system": f"{platform.system()} {platform.machine()}",
        "workers": workers,
        "threads": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "origin": origin,
        "commit": commit(),
    }


@cache
def commit() -> str:
    """The commit of this package's repository, for looking up the rules; empty where it was installed without one."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        subprocess.run([*here, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        changed = subprocess.run([*here, "diff", "--quiet", "HEAD", "--", ".."], capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found + (" with changes" if changed.returncode else "")


def cpu() -> str:
    """The model of the processor in words, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
