"""One experiment of a run: its trials, those that are still to do, and the conclusion from all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normwise.errors import NormwiseError
from normwise.lab.experiment import FOLDER, describe, load, neighbours_of
from normwise.lab.results import EDITION, Result
from normwise.lab.running import stamp
from normwise.lab.running.devices import CPU
from normwise.lab.running.plan import Plan
from normwise.lab.running.store import Store
from normwise.lab.running.workers import Done, Task


class ConclusionFailed(NormwiseError):
    """An experiment could not conclude from what its trials measured."""


class Measuring:
    """The state of an experiment while its trials are run, in any order.

    Args:
        name: of the experiment.
        plan: what was asked for.
        folder: where experiments are looked for.
        store: what earlier runs left, and where trials and result go.
    """

    def __init__(self, name: str, plan: Plan, folder: Path, store: Store) -> None:
        self.name, self.plan, self.store = name, plan, store
        self.description, self.experiment = describe(name, folder), load(name, folder)
        self.seeds, self.settings = plan.seeds_for(self.experiment), plan.settings_for(self.experiment)
        self.plain: dict[str, Any] = json.loads(json.dumps(asdict(self.settings)))  # as a file gives it back
        if plan.data is not None:
            self.plain["data"] = f"{plan.data.label} ({plan.data.fingerprint})"
        if plan.device != CPU:
            self.plain["device"] = plan.device
        self.origin = stamp.origin(name, folder)
        self.trials = self.experiment.trials(self.settings, self.seeds)
        own = None if folder == FOLDER else folder
        self.tasks = [
            Task(name, own, asdict(self.settings), asdict(trial), plan.data, plan.device) for trial in self.trials
        ]
        self.files = [store.trial_file(task, self.origin) for task in self.tasks]
        self.finished = self._finished()
        kept = (None if self.finished else store.load_trial(file) for file in self.files)
        self.found: dict[Path, Done | None] = dict(zip(self.files, kept, strict=True))
        self.failure = ""

    @property
    def total(self) -> int:
        """The number of trials."""
        return len(self.tasks)

    @property
    def missing(self) -> list[Task]:
        """The trials that nothing is known of yet, none where the result is there."""
        if self.finished:
            return []
        return [task for task, file in zip(self.tasks, self.files, strict=True) if self.found[file] is None]

    def take(self, task: Task, done: Done) -> None:
        """Store what a trial measured; or note why it measured nothing."""
        if done.error:
            self.failure = self.failure or (
                f"experiment {self.name!r} failed in trial {task.words()} with {done.error}; finished trials are kept."
            )
            return
        file = self.store.trial_file(task, self.origin)
        self.store.save_trial(file, task, done)
        self.found[file] = done

    def conclude(self, workers: int) -> Result:
        """The result, from what every trial measured, in the order of the trials whatever the order they came in.

        Raises:
            ConclusionFailed: the experiment raised.
        """
        if self.finished is not None:
            return self.finished
        from normwise.lab.intervals import resampled  # NumPy, which listing does not need
        from normwise.lab.outcomes import Outcomes
        from normwise.lab.settling import settled

        done = [kept for file in self.files if (kept := self.found[file]) is not None]
        share = self._share()
        try:
            with self._data(), resampled(share):
                outcomes = Outcomes(self.trials, [each.outcome for each in done])
                conclusion = settled(self.experiment.conclude(self.settings, outcomes), self.experiment.REGIME)
        except Exception as error:
            words = " ".join(str(error).split()) or "no message"
            raise ConclusionFailed(
                f"experiment {self.name!r} could not conclude: {type(error).__name__}: {words}; its trials are kept."
            ) from error
        seconds = sum(each.seconds for each in done)
        result = Result(
            experiment=self.name,
            question=self.description.question,
            claim=self.description.claim,
            refuted_by=self.description.refuted_by,
            settings=self.plain,
            seeds=self.seeds,
            conclusion=conclusion,
            stamp=stamp.stamp(origin=self.origin, seconds=seconds, workers=workers, device=self.plan.device),
            command=self.plan.command(self.name, len(self.seeds)),
            references=self.description.references,
            says=self.experiment.SAYS,
            topic=self.experiment.TOPIC,
            data=self.experiment.DATA if self.plan.data is None else self.plan.data.words,
            architecture=self.experiment.ARCHITECTURE,
            setting=self.plan.setting,
            neighbours=tuple(neighbours_of(self.experiment)),
            share=share,
            edition=EDITION,
        )
        self.store.save_result(result)
        return result

    def _share(self) -> float:
        """Test images over all others, where each seed draws its own; else what the experiment says, or 0."""
        if not getattr(self.experiment, "TESTS", False):
            return float(getattr(self.experiment, "SHARE", 0.0))
        from normwise.lab.data.splits import sizes

        with self._data():
            train, validation, test = sizes()
        return round(test / (train + validation), 3)

    @contextmanager
    def _data(self) -> Iterator[None]:
        """The images of the plan in the place of the digits."""
        if self.plan.data is None:
            yield
            return
        from normwise.lab.data.splits import use  # an experiment that needs no torch needs no data of ours

        use(self.plan.data)
        try:
            yield
        finally:
            use(None)

    def _finished(self) -> Result | None:
        kept, told = self.store.load_result(self.name), self.description
        if kept is None:
            return None
        if kept.edition != EDITION or kept.setting != self.plan.setting:
            return None
        same = kept.settings == self.plain and kept.seeds == self.seeds and kept.stamp.get("origin") == self.origin
        # the digest does not cover docstrings, whose words the result repeats
        words = (kept.question, kept.claim, kept.refuted_by, kept.references)
        return kept if same and words == (told.question, told.claim, told.refuted_by, told.references) else None
