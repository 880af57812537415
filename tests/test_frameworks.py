"""The libraries that are installed, under whatever name their distribution has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from normwise.frameworks import UNKNOWN, installed_version


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all there is to import from."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for name in ("tensorflow", "torch", "keras", "jax"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def install(folder: Path, distribution: str, library: str, version: str = "2.21.0") -> None:
    """A distribution with a library in it, as pip leaves them."""
    (folder / library).mkdir(exist_ok=True)
    (folder / library / "__init__.py").touch()
    metadata = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (metadata / "RECORD").write_text(f"{library}/__init__.py,,\n")
    (metadata / "top_level.txt").write_text(f"{library}\n")


@pytest.mark.parametrize(
    ("distribution", "library"),
    [
        ("tensorflow", "tensorflow"),
        ("tensorflow-cpu", "tensorflow"),
        ("tensorflow-macos", "tensorflow"),
        ("tf-nightly", "tensorflow"),
        ("intel-tensorflow", "tensorflow"),
        ("tensorflow-rocm", "tensorflow"),
        ("some-build-of-tensorflow", "tensorflow"),
        ("keras-nightly", "keras"),
        ("jax-nightly", "jax"),
        ("torch", "torch"),
        ("torch-nightly", "torch"),
    ],
)
def test_a_library_is_found_by_the_name_that_is_imported(distribution: str, library: str, only: Path) -> None:
    assert installed_version(library) is None
    install(only, distribution, library)
    assert installed_version(library) == "2.21.0"


def test_a_library_without_metadata_is_there_all_the_same(only: Path) -> None:
    (only / "torch").mkdir()
    (only / "torch/__init__.py").touch()
    assert installed_version("torch") == UNKNOWN


def test_a_folder_of_that_name_is_no_library(only: Path) -> None:
    (only / "torch").mkdir()
    (only / "torch/notes.txt").touch()
    assert installed_version("torch") is None


def test_metadata_that_were_left_over_are_looked_at_first(only: Path) -> None:
    install(only, "tensorflow", "tensorflow", "2.18.0")
    install(only, "tensorflow-cpu", "tensorflow", "2.21.0")
    assert installed_version("tensorflow") == "2.18.0"
