"""Runs experiments: begins, takes up again, measures, concludes, stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from normwise.errors import NormwiseError
from normwise.lab import stamp
from normwise.lab.experiment import FOLDER, Description, Experiment, describe, load, seeds_of, settings_of
from normwise.lab.experiment import names as known_names
from normwise.lab.results import Result
from normwise.lab.store import Store
from normwise.lab.workers import Done, Task, Workers, cores


class Progress(Protocol):
    """What wants to know how far a run is; the lab itself prints nothing."""

    def on_start(self, experiment: str, total: int, done: int) -> None:
        """An experiment begins; ``done`` of its ``total`` trials are there from an earlier run."""

    def on_trial_done(self, experiment: str, trial: str) -> None:
        """One more trial was finished and stored; ``trial`` says in words which one."""

    def on_result(self, result: Result) -> None:
        """An experiment is concluded, or its finished result was found, and is stored."""


class Silence:
    """A ``Progress`` that ignores everything."""

    def on_start(self, experiment: str, total: int, done: int) -> None:
        """Ignored."""

    def on_trial_done(self, experiment: str, trial: str) -> None:
        """Ignored."""

    def on_result(self, result: Result) -> None:
        """Ignored."""


def run(
    names: Sequence[str] = (),
    *,
    seeds: int | None = None,
    quick: bool = False,
    full: bool = False,
    out: Path = Path("lab"),
    progress: Progress | None = None,
    workers: int | None = None,
    folder: Path = FOLDER,
) -> list[Result]:
    """Run experiments, or take up a run where it stopped.

    The numbers depend on settings, seeds and versions only, not on ``workers`` or on how often a run was interrupted.

    Args:
        names: which experiments; empty: all.
        seeds: how many seeds, at least 2; None: as many as each experiment takes, which is 10 for most.
        quick: 3 seeds, and smaller settings where an experiment has them.
        full: larger settings where an experiment has them.
        out: folder for ``trials/`` (one file per trial) and ``results/`` (one file per experiment).
        progress: is told what happens.
        workers: how many processes; None: as many as there are cores.
        folder: where experiments are looked for; another one than the package's own serves tests.

    Returns:
        One result per name, in the order asked for; a finished one is loaded instead of run again.

    Raises:
        UnknownName: no experiment is called so.
        MissingExtra: PyTorch or scikit-learn is not installed.
        TrialFailed: a trial raised; those finished before are kept.
        NormwiseError: ``seeds`` is less than 2, ``quick`` and ``full`` are asked for at once, or ``out`` cannot be
            written to.
    """
    if seeds is not None and seeds < 2:
        raise NormwiseError(f"an experiment needs at least 2 seeds to have a spread: got {seeds}.")
    if quick and full:
        raise NormwiseError("a run is either quick or full: got both; leave one of them out.")
    chosen = list(dict.fromkeys(names)) or known_names(folder)
    descriptions = [describe(name, folder) for name in chosen]  # all of them first: a typing error costs no time
    experiments = [load(name, folder) for name in chosen]
    store = Store(out)
    with Workers(workers or cores()) as pool:
        return [
            _Run(description, experiment, seeds, quick, full, folder, store, progress or Silence()).result(pool)
            for description, experiment in zip(descriptions, experiments, strict=True)
        ]


class _Run:
    """One experiment with given settings and seeds."""

    def __init__(
        self,
        description: Description,
        experiment: Experiment,
        seeds: int | None,
        quick: bool,
        full: bool,
        folder: Path,
        store: Store,
        progress: Progress,
    ) -> None:
        self.description, self.experiment, self.store, self.progress = description, experiment, store, progress
        self.name = description.name
        self.seeds = tuple(range(seeds if seeds is not None else seeds_of(experiment, quick=quick)))
        self.settings = settings_of(experiment, quick=quick, full=full)
        self.plain: dict[str, Any] = json.loads(json.dumps(asdict(self.settings)))  # as a file gives it back
        self.origin = stamp.origin(self.name, folder)
        self.trials = experiment.trials(self.settings, self.seeds)
        self.tasks = [Task(self.name, folder, asdict(self.settings), asdict(trial)) for trial in self.trials]
        size = " --quick" if quick else " --full" if full else ""
        self.command = f"normwise lab run {self.name} --seeds {len(self.seeds)}{size}"

    def result(self, pool: Workers) -> Result:
        """The finished result if there is one, else measure what is missing and conclude."""
        result = self._finished()
        if result is None:
            done = self._measure(pool)
            result = self._conclude(done, pool.count)
            self.store.save_result(result)
        else:
            self.progress.on_start(self.name, len(self.tasks), len(self.tasks))
        self.progress.on_result(result)
        return result

    def _finished(self) -> Result | None:
        kept = self.store.load_result(self.name)
        if kept is None:
            return None
        same = kept.settings == self.plain and kept.seeds == self.seeds and kept.stamp.get("origin") == self.origin
        return kept if same else None

    def _measure(self, pool: Workers) -> list[Done]:
        """What every trial measured, in the order of the trials whatever the order in which they finished."""
        files = [self._file(task) for task in self.tasks]
        found: dict[Path, Done | None] = {file: self.store.load_trial(file) for file in files}
        missing = [task for task, file in zip(self.tasks, files, strict=True) if found[file] is None]
        self.progress.on_start(self.name, len(self.tasks), len(self.tasks) - len(missing))
        for task, done in pool.do(missing):
            self.store.save_trial(self._file(task), task, done)
            found[self._file(task)] = done
            self.progress.on_trial_done(self.name, task.words())
        return [kept for file in files if (kept := found[file]) is not None]

    def _file(self, task: Task) -> Path:
        return self.store.trial_file(task, self.origin)

    def _conclude(self, done: list[Done], workers: int) -> Result:
        from normwise.lab.outcomes import Outcomes  # NumPy, which listing does not need

        outcomes = Outcomes(self.trials, [one.outcome for one in done])
        seconds = sum(one.seconds for one in done)
        return Result(
            experiment=self.name,
            question=self.description.question,
            claim=self.description.claim,
            refuted_by=self.description.refuted_by,
            settings=self.plain,
            seeds=self.seeds,
            conclusion=self.experiment.conclude(self.settings, outcomes),
            stamp=stamp.stamp(origin=self.origin, seconds=seconds, workers=workers),
            command=self.command,
            references=self.description.references,
            says=self.experiment.SAYS,
            topic=self.experiment.TOPIC,
        )
