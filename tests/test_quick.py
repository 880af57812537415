"""The fast lane keeps the first case of each test, leaves out the slow ones, and names nothing that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import quick

ROOT = Path(__file__).parents[1]


def items(*names: str) -> list[Any]:
    return [SimpleNamespace(nodeid=name, fixturenames=["site"] if "site" in name else []) for name in names]


def chosen(monkeypatch: pytest.MonkeyPatch, slow: Path, given: list[Any], *, fast: bool) -> tuple[list[str], list[str]]:
    """The cases that stay, and those that are reported to pytest as deselected."""
    monkeypatch.setattr(quick, "SLOW", slow)
    gone: list[str] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: gone.extend(item.nodeid for item in items))
    config: Any = SimpleNamespace(getoption=lambda _: fast, hook=hook)
    quick.pytest_collection_modifyitems(config, given)
    return [item.nodeid for item in given], gone


def test_the_first_case_of_each_test_that_is_not_slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "slow.txt"
    slow.write_text("a.py::test_slow\nc.py::site\n")
    names = (
        "c.py::test_site",
        "a.py::test_it[1]",
        "a.py::test_it[2]",
        "a.py::test_slow[1]",
        "a.py::test_one",
        "b.py::test_it[1]",
    )
    kept, gone = chosen(monkeypatch, slow, items(*names), fast=True)
    assert kept == ["a.py::test_it[1]", "a.py::test_one", "b.py::test_it[1]"]
    assert gone == ["c.py::test_site", "a.py::test_it[2]", "a.py::test_slow[1]"]
    assert chosen(monkeypatch, slow, items(*names), fast=False) == ([*names], [])


def test_the_slowest_case_of_a_test_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quick, "SLOW", tmp_path / "slow.txt")
    times = quick.Times()
    for name, seconds in (("a.py::test_it[1]", 0.1), ("a.py::test_it[2]", 9.0), ("a.py::test_fast", 0.1)):
        report: Any = SimpleNamespace(nodeid=name, duration=seconds, when="setup", user_properties=[])
        times.pytest_runtest_logreport(report)
    properties = [(quick.SHARED, ["b.py::site", 5.0]), (quick.SHARED, ["b.py::page", 0.1])]
    report = SimpleNamespace(nodeid="b.py::test_fast", duration=0.1, when="setup", user_properties=properties)
    times.pytest_runtest_logreport(report)
    times.pytest_sessionfinish()
    assert quick.SLOW.read_text("utf-8") == "a.py::test_it\nb.py::site\n"


def test_the_list_names_tests_that_are_there() -> None:
    """A test that was renamed would come back into the fast lane without notice."""
    lines = quick.SLOW.read_text("utf-8").splitlines()
    assert lines == sorted(set(lines))
    for line in lines:
        path, _, name = line.partition("::")
        assert name.rpartition("::")[2].partition(".")[0] in (ROOT / path).read_text("utf-8"), line


PARAMETRIZED = """import pytest

@pytest.mark.parametrize("n", range(3))
def test_it(n):
    assert n >= 0
"""


def collected(folder: Path, *args: str) -> list[str]:
    """The cases that pytest would run in a folder."""
    (folder / "test_it.py").write_text(PARAMETRIZED)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\n")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "tests.quick", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}
    done = subprocess.run([*command, *args], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line.startswith("test_it.py")]


def test_only_first_cases_are_made_where_none_is_named(tmp_path: Path) -> None:
    assert collected(tmp_path) == ["test_it.py: 3"]
    assert collected(tmp_path, "--quick") == ["test_it.py: 1"]
    assert collected(tmp_path, "--quick", "test_it.py::test_it[2]") == ["test_it.py: 1"]


def test_files_without_a_fast_test_and_with_slow_imports_are_not_imported() -> None:
    config: Any = SimpleNamespace(
        getoption=lambda _: True, args_source=pytest.Config.ArgsSource.TESTPATHS, args=["src"]
    )
    left_out = ROOT / "tests/test_triton.py"
    assert quick.nothing_but_slow(left_out)
    for path in (left_out, *(ROOT / each for each in quick.SLOW_IMPORTS)):
        assert path.exists()
        assert quick.pytest_ignore_collect(path, config)
    assert quick.pytest_ignore_collect(ROOT / "tests/test_quick.py", config) is None
    config.args_source, config.args = pytest.Config.ArgsSource.ARGS, ["tests/test_triton.py::test_x", "tests/callbacks"]
    for path in (left_out, ROOT / "tests/callbacks/lightning"):
        assert quick.pytest_ignore_collect(path, config) is None


MODULE = """import time

import pytest

@pytest.fixture(scope="module")
def site():
    time.sleep(0.6)

def test_first(site):
    assert True

def test_second(site):
    assert True
"""


def test_a_slow_fixture_of_a_module_is_noted(tmp_path: Path) -> None:
    (tmp_path / "noting.py").write_text(
        "import pathlib\nfrom tests import quick\nquick.SLOW = pathlib.Path('slow.txt')\nfrom tests.quick import *\n"
    )
    (tmp_path / "test_it.py").write_text(MODULE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "noting",
        "-p",
        "no:cacheprovider",
        "--note-slow",
        "test_it.py",
    ]
    paths = os.pathsep.join((str(tmp_path), str(ROOT), str(ROOT / "src")))
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=True)
    assert (tmp_path / "slow.txt").read_text("utf-8") == "test_it.py::site\ntest_it.py::test_first\n"
