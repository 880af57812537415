"""Every experiment is run once in its tiny setting; the exam and its own tests look at the same outcomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from normwise.lab.experiment import load
from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Conclusion
from normwise.lab.running.workers import Task, work

SEEDS = (0, 1)


@dataclass(frozen=True)
class Ran:
    """The results of an experiment in the settings that its own test file names: ``SETTINGS``."""

    settings: Any
    outcomes: Outcomes
    conclusion: Conclusion
    refuted: tuple[str, ...]
    """Exact statements that are there to be refuted: ``REFUTED`` in its own test file."""
    levels: tuple[float, ...]
    """Values that its statements ask for, for outcomes that are made up: ``LEVELS`` in its own test file."""


@cache
def run(name: str) -> Ran:
    """An experiment, its trials done as a worker does them."""
    spec = spec_from_file_location(f"tests_of_{name}", Path(__file__).with_name(f"test_{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    own = module_from_spec(spec)
    spec.loader.exec_module(own)
    experiment, settings = load(name), own.SETTINGS
    trials = experiment.trials(settings, SEEDS)
    done = [work(Task(name, None, asdict(settings), asdict(trial))) for trial in trials]
    assert {each.error for each in done} == {""}
    outcomes = Outcomes(trials, [each.outcome for each in done])
    refuted, levels = (getattr(own, name, ()) for name in ("REFUTED", "LEVELS"))
    return Ran(settings, outcomes, experiment.conclude(settings, outcomes), refuted, levels)


@pytest.fixture(scope="session")
def ran() -> Any:
    """Runs an experiment by its name, once."""
    return run


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Outcomes:
    """The outcomes of the experiment that the test file is named after."""
    return run(request.module.experiment.__name__.rpartition(".")[2]).outcomes


@pytest.fixture(scope="module")
def conclusion(request: pytest.FixtureRequest) -> Conclusion:
    """The conclusion of the experiment that the test file is named after."""
    return run(request.module.experiment.__name__.rpartition(".")[2]).conclusion
