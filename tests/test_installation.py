"""The commands that install more: for a clone, a wheel file, a repository, and the index."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from normwise import installation
from normwise.errors import MissingExtra
from normwise.installation import Origin, extra_command, how_to_build, kernels_command, libraries_of

ROOT = Path(__file__).resolve().parent.parent
GIT = {"url": "https://host/me/normwise.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}
BRANCH = {
    "url": "https://host/me/normwise.git",
    "vcs_info": {"vcs": "git", "commit_id": "ab", "requested_revision": "v1"},
}


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip is called ``pip``, and setuptools is recent enough."""
    monkeypatch.setattr(installation, "pip", lambda: "pip")
    monkeypatch.setattr(installation, "_lacks_setuptools", lambda: False)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Origin]:
    """Every kind of origin, with a space in the names of files."""
    clone, wheel = tmp_path / "my clone", tmp_path / "normwise-0.1.0-py3-none-any.whl"
    clone.mkdir()
    wheel.touch()
    return {
        "clone": Origin.of({"url": clone.as_uri(), "dir_info": {}}),
        "editable": Origin.of({"url": clone.as_uri(), "dir_info": {"editable": True}}),
        "wheel": Origin.of({"url": wheel.as_uri(), "archive_info": {}}),
        "remote": Origin.of({"url": "https://host/normwise-0.1.0.whl", "archive_info": {}}),
        "git": Origin.of(GIT),
        "branch": Origin.of(BRANCH),
        "gone": Origin.of({"url": (tmp_path / "gone").as_uri(), "dir_info": {"editable": True}}),
        "index": Origin(None),
    }


@pytest.mark.parametrize(
    ("kind", "kernels", "command"),
    [
        ("clone", False, "pip install '{folder}/my clone[torch]'"),
        ("clone", True, "pip install --no-build-isolation '{folder}/my clone[torch]'"),
        ("editable", False, "pip install -e '{folder}/my clone[torch]'"),
        ("editable", True, "pip install -e '{folder}/my clone[torch]'"),
        ("wheel", False, "pip install '{folder}/normwise-0.1.0-py3-none-any.whl[torch]'"),
        ("remote", False, "pip install 'normwise[torch] @ https://host/normwise-0.1.0.whl'"),
        ("git", False, "pip install 'normwise[torch] @ git+https://host/me/normwise.git@ab12'"),
        ("branch", False, "pip install 'normwise[torch] @ git+https://host/me/normwise.git@v1'"),
        ("gone", False, "pip install 'torch>=2.11' 'tqdm>=4.60' 'safetensors>=0.4'"),
        ("index", False, "pip install 'normwise[torch]'"),
    ],
)
def test_the_libraries_of_an_extra(
    kind: str, kernels: bool, command: str, sources: dict[str, Origin], tmp_path: Path
) -> None:
    assert extra_command("torch", sources[kind], keep_kernels=kernels) == command.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("clone", "pip install --no-build-isolation --force-reinstall --no-deps '{folder}/my clone'"),
        ("editable", "pip install --no-build-isolation -e '{folder}/my clone'"),
        ("wheel", "pip install --no-build-isolation --force-reinstall --no-deps PATH_OF_A_CLONE"),
        ("remote", "pip install --no-build-isolation --force-reinstall --no-deps PATH_OF_A_CLONE"),
        ("git", "pip install --no-build-isolation --force-reinstall --no-deps git+https://host/me/normwise.git@ab12"),
        ("gone", "pip install --no-build-isolation --force-reinstall --no-deps PATH_OF_A_CLONE"),
        ("index", "pip install --no-build-isolation --force-reinstall --no-deps --no-binary normwise normwise"),
    ],
)
def test_the_compiled_kernels(kind: str, command: str, sources: dict[str, Origin], tmp_path: Path) -> None:
    assert kernels_command(sources[kind]) == command.format(folder=tmp_path)


def test_an_old_setuptools_is_replaced_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(installation, "pip", lambda: "pip")
    first = "pip install 'setuptools>=80' && pip install --no-build-isolation "
    for found in ("65.5.0", None):

        def version(name: str, found: str | None = found) -> str:
            if name != "setuptools" or found is None:
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr(installation, "version", version)
        assert kernels_command(Origin(None)).startswith(first)
    monkeypatch.setattr(installation, "version", lambda _: "80.9.0")
    assert kernels_command(Origin(None)).startswith("pip install --no-build-isolation ")


def test_the_oldest_setuptools_is_that_of_an_isolated_build() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["build-system"]["requires"] == [f"setuptools>={installation.SETUPTOOLS}"]


@pytest.mark.parametrize("extra", ["torch", "keras", "lab", "dask", "all"])
def test_the_libraries_are_those_of_pyproject(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def written(name: str) -> list[str]:
        found = list[str]()
        for line in extras[name]:
            within = line.removeprefix("normwise[").removesuffix("]").split(",") if line.startswith("normwise[") else []
            found += [each for inner in within for each in written(inner)] if within else [line]
        return found

    assert sorted(libraries_of(extra)) == sorted({*written(extra)})
    assert libraries_of("no_such_extra") == []


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.Origin, "found", lambda: Origin(None))
    build = "pip install --no-build-isolation --force-reinstall --no-deps --no-binary normwise normwise"
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    assert how_to_build() == f"build them with: {build}"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert how_to_build() == f"no C++ compiler is here (c++, g++, clang++): install one, then run: {build}"
    monkeypatch.setattr(sys, "platform", "win32")
    assert how_to_build() == "they are built on Linux and macOS only"


def test_pip_is_that_of_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    beside = str(Path(sys.executable).parent / "pip")
    monkeypatch.setattr(shutil, "which", lambda _: beside)
    assert installation.pip() == "pip"
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/pip")
    assert installation.pip() == f"{sys.executable} -m pip"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert installation.pip() == f"{sys.executable} -m pip"


@pytest.mark.parametrize("extra", ["torch", "keras", "lab"])
def test_a_missing_extra_names_that_command(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.Origin, "found", lambda: Origin(None))
    sentence = f"something is not installed; install it with: pip install 'normwise[{extra}]'"
    assert str(MissingExtra("something", extra=extra)) == sentence


def test_what_pip_writes_down_is_what_is_read(tmp_path: Path) -> None:
    """A real installation of a small project, from a folder, as pip does it today."""
    project = tmp_path / "my project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "probe"\nversion = "1"\n',
        encoding="utf-8",
    )
    (project / "backend.py").write_text(BACKEND, encoding="utf-8")
    place = tmp_path / "env"
    venv.create(place, with_pip=True)
    install: Callable[..., Any] = lambda *more: subprocess.run(  # noqa: E731 - twice the same call
        [place / "bin/python", "-m", "pip", "install", "--no-index", "-q", *more], check=True, capture_output=True
    )
    install(str(project))
    (written,) = place.glob("lib/python*/site-packages/probe-1.dist-info/direct_url.json")
    assert Origin.of(json.loads(written.read_text())) == Origin(str(project))


BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/probe-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("probe-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: probe\\nVersion: 1\\n")
        wheel.writestr("probe-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("probe-1.dist-info/RECORD", "")
    return "probe-1-py3-none-any.whl"
"""
