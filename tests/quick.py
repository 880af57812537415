"""The fast lane: ``make quick`` runs the first case of each test and leaves out what takes seconds.

A plugin of pytest, with two options. ``--quick`` is the fast lane. ``--note-slow``, given to a whole run, writes
``tests/slow_tests.txt``: the tests of which the slowest case took more than ``LIMIT`` seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LIMIT = 0.5
SLOW = Path(__file__).with_name("slow_tests.txt")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add both options."""
    group = parser.getgroup("fast lane")
    group.addoption("--quick", action="store_true", help="the first case of each test, none that takes seconds")
    group.addoption("--note-slow", action="store_true", help=f"write {SLOW.name} from the times of this run")


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the times where they come together: in the process that started the others."""
    if config.getoption("note_slow") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Times())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first case of each test that is not slow."""
    if not config.getoption("quick"):
        return
    slow = set(SLOW.read_text("utf-8").splitlines())
    first: dict[str, pytest.Item] = {}
    for item in items:
        first.setdefault(name_of(item.nodeid), item)
    kept = [item for name, item in first.items() if name not in slow]
    places = {id(item) for item in kept}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in places])
    items[:] = kept


def name_of(case: str) -> str:
    """The test that a case is of.

    >>> name_of("tests/test_x.py::test_it[relu-2]")
    'tests/test_x.py::test_it'
    """
    return case.partition("[")[0]


class Times:
    """The time that each test took: that of its slowest case."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called with every phase of every case."""
        name = name_of(report.nodeid)
        self.seconds[name] = max(self.seconds.get(name, 0.0), report.duration)

    def pytest_sessionfinish(self) -> None:
        """Called at the end."""
        slow = sorted(name for name, seconds in self.seconds.items() if seconds > LIMIT)
        SLOW.write_text("".join(f"{name}\n" for name in slow), encoding="utf-8")
