"""Keeps what was measured: one file per trial and one per result, each either whole or not there.

A file is found again only by exactly what its numbers depend on: change a setting, the experiment's text, the lab or a
library, and it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from normwise.errors import NormwiseError
from normwise.lab.results import Result, from_json, to_json
from normwise.lab.running.devices import CPU
from normwise.lab.running.workers import Done, Task


class Store:
    """The folder of a run: ``trials/<experiment>/<key>.json`` and ``results/<experiment>.json``.

    Args:
        out: the folder; made when it is not there.

    Raises:
        NormwiseError: the folder cannot be made or written to.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        for folder in (out / "trials", out / "results"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise NormwiseError(f"cannot write to the folder {str(folder)!r}: {error.strerror}.") from error

    def trial_file(self, task: Task, origin: str) -> Path:
        """The path of the file for the outcome of a task.

        Args:
            task: the trial with its settings.
            origin: digest of the code and the versions, see ``stamp.origin``.
        """
        parts = [task.experiment, task.settings, task.trial, origin]
        if task.data is not None:
            parts.append([task.data.name, task.data.fingerprint])
        if task.device != CPU:
            parts.append(task.device)
        key = digest(parts)
        return self.out / "trials" / task.experiment / f"{key}.json"

    def load_trial(self, path: Path) -> Done | None:
        """The outcome that an earlier run left, or None where its file is missing or damaged."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["digest"] == digest([kept["outcome"], kept["seconds"]]):
                return Done(kept["outcome"], kept["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # missing or damaged: the trial is run again, and its file is replaced
        return None

    def save_trial(self, path: Path, task: Task, done: Done) -> None:
        """Store an outcome, whole or not at all."""
        kept = {
            "trial": task.trial,
            "outcome": done.outcome,
            "seconds": done.seconds,
            "digest": digest([done.outcome, done.seconds]),
        }
        write(path, json.dumps(kept, allow_nan=False))

    def result_file(self, experiment: str) -> Path:
        """The path of the file for the result of an experiment."""
        return self.out / "results" / f"{experiment}.json"

    def load_result(self, experiment: str) -> Result | None:
        """The finished result of an earlier run, or None when there is nothing whole."""
        try:
            return from_json(self.result_file(experiment).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save_result(self, result: Result) -> None:
        """Store a result, whole or not at all."""
        write(self.result_file(result.experiment), to_json(result))


def keep(results: Iterable[Result], folder: Path) -> None:
    """Put results into a folder, one file each, in the place of older ones of the same kind.

    What was measured at other seeds, on other data or at a neighbouring setting has a file of its own beside the first:
    ``does_it_train_faster.json``, ``does_it_train_faster.seeds-1000.json``, ``does_it_train_faster.mnist-5000.json``,
    ``does_it_train_faster.grid.json``.
    """
    for result in results:
        data = result.settings.get("data")  # a name and a fingerprint
        parts = [result.experiment, *([str(data).split()[0]] if data else []), result.setting]
        parts.append(f"seeds-{result.seeds[0]}" if result.seeds[0] else "")
        write(folder / f"{'.'.join(part for part in parts if part)}.json", to_json(result))


def digest(value: Any) -> str:
    """A short name for plain values that changes when they do."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def write(path: Path, text: str) -> None:
    """Write a file so that at any moment there is either the old one or the new one under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
