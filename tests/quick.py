"""The fast lane: ``make quick`` runs the first case of each test and leaves out what takes seconds.

A plugin of pytest, with two options. ``--quick`` is the fast lane. ``--note-slow``, given to a whole run, writes
``tests/slow_tests.txt``: the tests of which the slowest case took more than ``LIMIT`` seconds, and the fixtures of a
module that did. Without the fixture in the list, the second test of the module would wait for it in place of the first.

Collecting 16 000 cases takes every worker longer than many tests. So the fast lane makes the first case of a test only,
and does not import files that have nothing for it or whose imports alone take seconds, unless they are named.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import pytest

LIMIT = 0.5
SHARED = "seconds of a shared fixture"
SLOW = Path(__file__).with_name("slow_tests.txt")
ROOT = Path(__file__).parents[1]
SLOW_IMPORTS = (
    "src/normwise/callbacks/lightning",  # Lightning brings TorchMetrics, TensorBoard and PyTorch's compiler
    "tests/callbacks/lightning",
    "tests/torch/functional/test_samples_of_pytorch.py",  # the sample inputs of all of PyTorch's operators
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add both options."""
    group = parser.getgroup("fast lane")
    group.addoption("--quick", action="store_true", help="the first case of each test, none that takes seconds")
    group.addoption("--note-slow", action="store_true", help=f"write {SLOW.name} from the times of this run")


def pytest_configure(config: pytest.Config) -> None:
    """Listen to the times where they come together: in the process that started the others."""
    if config.getoption("note_slow") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Times())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a test for the fast lane, and those whose imports take seconds, unless they are named."""
    if not config.getoption("quick") or any(_inside(collection_path, ROOT / _file(arg)) for arg in named(config)):
        return None
    slow = any(collection_path == ROOT / each for each in SLOW_IMPORTS) or nothing_but_slow(collection_path)
    return True if slow else None


def named(config: pytest.Config) -> list[str]:
    """The files, folders and tests that were typed."""
    return [] if config.args_source is pytest.Config.ArgsSource.TESTPATHS else config.args


def _file(arg: str) -> str:
    return arg.partition("::")[0]


def _inside(path: Path, folder: Path) -> bool:
    """Tell whether one of them is in the other one."""
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def nothing_but_slow(path: Path) -> bool:
    """Tell whether a file has tests, and all are slow."""
    tests = re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE) if path.suffix == ".py" else []
    here = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    return bool(tests) and all(f"{here}::{test}" in slow_ones(SLOW) for test in tests)


@cache
def slow_ones(path: Path) -> frozenset[str]:
    """The names in a list of slow tests."""
    return frozenset(path.read_text("utf-8").splitlines())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Iterator[None]:
    """Make the first case of a test only, where none was asked for by name."""
    yield
    config = metafunc.config
    if config.getoption("quick") and not config.getoption("keyword") and not any("[" in arg for arg in named(config)):
        del metafunc._calls[1:]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first case of each test that is not slow."""
    if not config.getoption("quick"):
        return
    slow = slow_ones(SLOW)
    first: dict[str, pytest.Item] = {}
    for item in items:
        first.setdefault(name_of(item.nodeid), item)
    kept = [item for name, item in first.items() if name not in slow and not slow_fixtures(item, slow)]
    places = {id(item) for item in kept}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in places])
    items[:] = kept


def slow_fixtures(item: pytest.Item, slow: frozenset[str]) -> bool:
    """Tell whether a test waits for a slow fixture of its module."""
    path = item.nodeid.partition("::")[0]
    return any(f"{path}::{name}" in slow for name in getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Note how long a fixture takes that tests share; a property of a test travels to where the times come together."""
    start = time.perf_counter()
    result = yield
    if fixturedef.scope == "module":
        name = f"{request.node.nodeid}::{fixturedef.argname}"
        request._pyfuncitem.user_properties.append((SHARED, [name, time.perf_counter() - start]))
    return result


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
        shared: dict[str, float] = {}
        for key, value in report.user_properties if report.when == "setup" else ():
            if key == SHARED and isinstance(value, list):
                shared[value[0]] = value[1]
        for each, seconds in ((name, report.duration), *shared.items()):
            self.seconds[each] = max(self.seconds.get(each, 0.0), seconds)

    def pytest_sessionfinish(self) -> None:
        """Called at the end."""
        slow = sorted(name for name, seconds in self.seconds.items() if seconds > LIMIT)
        SLOW.write_text("".join(f"{name}\n" for name in slow), encoding="utf-8")
