"""The places of ``make matrix``; the run itself installs gigabytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import matrix


def test_the_newest_python_is_one_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyenv has a program of every version's name on the PATH, also of those that are not chosen."""
    for name, program in (("python3.29", "exit 127"), ("python3.28", f'exec "{sys.executable}" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert matrix.newest_python() == str(tmp_path / "python3.28")
    (tmp_path / "python3.28").unlink()
    assert matrix.newest_python() == sys.executable


def test_the_oldest_place_has_every_lower_bound() -> None:
    (oldest,) = [place for place in matrix.places(sys.executable) if place.name == "oldest"]
    assert {pin.partition("==")[0] for pin in oldest.pins} == {
        "numpy",
        "click",
        "rich",
        "torch",
        "tqdm",
        "safetensors",
        "keras",
    }
