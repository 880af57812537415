"""Experiments made up for the tests of the frame: they measure nothing and take no time, unless told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DOCSTRING = '''"""A made-up experiment.

Question:
    Does it
    end?

Claim:
    Somebody says so.

What would refute it:
    Another number.

Settings:
    None to speak of.

Verdict:
    By the rule.

References:
    - A. Author, A Title,
      2015.
    - B. Author, Another.
"""
'''

BODY = """
import random
import time
from dataclasses import dataclass

from normwise.lab.results import Conclusion, Regime, Table
from normwise.lab.intervals import mean
from normwise.lab.verdict import AtLeast, judge

@dataclass(frozen=True)
class Settings:
    rates: tuple = (0.1, 0.2)
    seconds: float = {seconds}

SAYS = "Somebody 2015"
TOPIC = "optimization"
DATA = "random numbers"
ARCHITECTURE = "none"
REGIME = Regime.OWN
SEEDS = 5
FULL = Settings(rates=(0.1, 0.2, 0.4))

@dataclass(frozen=True)
class Trial:
    rate: float
    seed: int

def trials(settings, seeds):
    return [Trial(rate, seed) for rate in settings.rates for seed in seeds]

def run(trial, settings):
    time.sleep(settings.seconds)
    {deed}
    return {{"number": random.Random(f"{{trial.rate}} {{trial.seed}}").random(), "none": float("inf")}}

def conclude(settings, outcomes):
    numbers = [outcomes.where(rate=rate).array("number") for rate in settings.rates]
    statement = judge("It is there.", mean(numbers[1] - numbers[0], "points"), AtLeast(0.1))
    return Conclusion((statement,), Table("Numbers", ("number",), tuple((repr(x),) for x in numbers[0])), ())
"""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes an experiment into a folder and returns the folder."""

    def write(
        name: str = "does_it_end",
        *,
        docstring: str = DOCSTRING,
        deed: str = "pass",
        seconds: float = 0.0,
        more: str = "",
    ) -> Path:
        folder = tmp_path / "experiments"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(docstring + BODY.format(deed=deed, seconds=seconds) + more, "utf-8")
        return folder

    return write


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread, as in the workers: these networks are too small to share, and waiting threads are very slow."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def docstring() -> str:
    """The docstring of the made-up experiments."""
    return DOCSTRING
