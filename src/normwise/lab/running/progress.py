"""The events of a run, for an observer of its progress; the lab itself prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from normwise.lab.results import Result


class Progress(Protocol):
    """An observer of the progress of a run."""

    def on_plan(self, trials: Mapping[str, tuple[int, int]], workers: int) -> None:
        """A run begins: of each experiment, how many trials it has and how many are there from an earlier run."""

    def on_trial_done(self, experiment: str, trial: str, seconds: float) -> None:
        """One more trial was finished and stored; ``trial`` says in words which one, ``seconds`` how long it took."""

    def on_result(self, result: Result) -> None:
        """An experiment is concluded, or its finished result was found, and is stored."""


class Silence:
    """A ``Progress`` that ignores everything."""

    def on_plan(self, trials: Mapping[str, tuple[int, int]], workers: int) -> None:
        """Ignored."""

    def on_trial_done(self, experiment: str, trial: str, seconds: float) -> None:
        """Ignored."""

    def on_result(self, result: Result) -> None:
        """Ignored."""
