"""Keeps the outcomes of trials and what they cost; what an earlier run finished is not trained again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from normwise.errors import NormwiseError
from normwise.lab.comparison.arms import Arm, Trial
from normwise.lab.comparison.rows import Rows
from normwise.lab.comparison.trainer import Outcome, Trainer
from normwise.lab.running.reach import digest
from normwise.lab.running.stamp import versions
from normwise.lab.running.store import Store
from normwise.lab.running.workers import Done, Task

NAME = "comparison"
"""The name of the folder of trials in the store."""


class Ledger:
    """Trials, their outcomes, and the seconds that they took, those of earlier runs included.

    Args:
        trainer: runs a trial that is not there yet.
        rows: on which it is run.
        out: the folder of an earlier run, or of this one; None to keep nothing.
        clock: seconds, from any moment on.

    Raises:
        NormwiseError: the folder cannot be written to.
    """

    def __init__(
        self, trainer: Trainer, rows: Rows, out: Path | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._trainer, self._clock = trainer, clock
        self._store = None if out is None else Store(out)
        self._settings: dict[str, Any] = {"model": trainer.fingerprint, "rows": _digest_of(rows)}
        self._origin = _origin(trainer.framework)
        self._known: dict[Trial, tuple[Outcome, float]] = {}
        self.spent = 0.0
        self.kept = 0

    def outcome(self, trial: Trial) -> Outcome:
        """The outcome of a trial, run now or earlier."""
        if trial not in self._known:
            found, seconds = self._kept(trial) or self._measured(trial)
            self._known[trial] = found, seconds
            self.spent += seconds
        return self._known[trial][0]

    def knows(self, trial: Trial) -> bool:
        """True if this run already has the outcome of the trial."""
        return trial in self._known

    def cost(self, arms: Iterable[Arm], steps: int) -> float:
        """Seconds that a trial of so many steps will take, the mean over arms, from what trials took so far."""
        return mean(self._cost(arm, steps) for arm in arms)

    def _cost(self, arm: Arm, steps: int) -> float:
        done = [(trial, *kept) for trial, kept in self._known.items() if not trial.final and not kept[0].error]
        # the arm's own longest trial, or one of the same normalizer and size of batches, or any
        by_likeness = [
            [each for each in done if each[0].arm == arm],
            [each for each in done if (each[0].arm.normalizer, each[0].arm.batch) == (arm.normalizer, arm.batch)],
            done,
        ]
        like = next((found for found in by_likeness if found), None)
        if like is None:
            return 0.0
        trial, outcome, seconds = max(like, key=lambda each: each[0].steps)
        return max(seconds + (steps - trial.steps) * outcome.per_step, 0.0)

    def _measured(self, trial: Trial) -> tuple[Outcome, float]:
        began = self._clock()
        try:
            found = self._trainer.train(trial)
        except NormwiseError as error:
            found = Outcome(error=str(error))
        seconds = self._clock() - began
        if self._store is not None and not found.error:
            task = self._task(trial)
            self._store.save_trial(self._store.trial_file(task, self._origin), task, Done(found.plain(), seconds))
        return found, seconds

    def _kept(self, trial: Trial) -> tuple[Outcome, float] | None:
        if self._store is None:
            return None
        done = self._store.load_trial(self._store.trial_file(self._task(trial), self._origin))
        if done is None:
            return None
        self.kept += 1
        return Outcome(**done.outcome), done.seconds

    def _task(self, trial: Trial) -> Task:
        return Task(NAME, None, self._settings, asdict(trial))


def _digest_of(rows: Rows) -> str:
    found = hashlib.sha256()
    for array in (rows.inputs, rows.targets):
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:24]


def _origin(framework: str) -> str:
    """A digest of everything else that a trial's numbers depend on: the code of a comparison, and versions."""
    parts = [framework, repr(sorted(versions().items())), digest(Path(__file__).with_name("comparing.py"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
