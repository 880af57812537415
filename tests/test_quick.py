"""The fast lane keeps the first case of each test, leaves out the slow ones, and names nothing that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import quick

ROOT = Path(__file__).parents[1]


def items(*names: str) -> list[Any]:
    return [SimpleNamespace(nodeid=name) for name in names]


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
    slow.write_text("a.py::test_slow\n")
    names = ("a.py::test_it[1]", "a.py::test_it[2]", "a.py::test_slow[1]", "a.py::test_one", "b.py::test_it[1]")
    kept, gone = chosen(monkeypatch, slow, items(*names), fast=True)
    assert kept == ["a.py::test_it[1]", "a.py::test_one", "b.py::test_it[1]"]
    assert gone == ["a.py::test_it[2]", "a.py::test_slow[1]"]
    assert chosen(monkeypatch, slow, items(*names), fast=False) == ([*names], [])


def test_the_slowest_case_of_a_test_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quick, "SLOW", tmp_path / "slow.txt")
    times = quick.Times()
    for name, seconds in (("a.py::test_it[1]", 0.1), ("a.py::test_it[2]", 9.0), ("a.py::test_fast", 0.1)):
        report: Any = SimpleNamespace(nodeid=name, duration=seconds)
        times.pytest_runtest_logreport(report)
    times.pytest_sessionfinish()
    assert quick.SLOW.read_text("utf-8") == "a.py::test_it\n"


def test_the_list_names_tests_that_are_there() -> None:
    """A test that was renamed would come back into the fast lane without notice."""
    lines = quick.SLOW.read_text("utf-8").splitlines()
    assert lines == sorted(set(lines))
    for line in lines:
        path, _, name = line.partition("::")
        assert name.rpartition("::")[2].partition(".")[0] in (ROOT / path).read_text("utf-8"), line
