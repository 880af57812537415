"""Processes that work trials off side by side, one thread each, and that go away with the process that started them."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from normwise.errors import NormwiseError
from normwise.lab.experiment import FOLDER, load
from normwise.lab.results import Result
from normwise.lab.running.devices import CPU, on

if TYPE_CHECKING:  # images need NumPy, and listing must not wait for it
    from normwise.lab.data.images import Source


class TrialFailed(NormwiseError):
    """A trial raised, or its process died; the message names the experiment and the trial.

    Args:
        message: one sentence.
        finished: results of the same run that are whole.
    """

    def __init__(self, message: str, finished: Sequence[Result] = ()) -> None:
        super().__init__(message)
        self.finished = list(finished)


@dataclass(frozen=True)
class Task:
    """One trial of one experiment, as plain values that travel to another process."""

    experiment: str
    folder: Path | None
    """The folder of the experiment; None: the package's own folder, which another machine has elsewhere."""
    settings: dict[str, Any]
    trial: dict[str, Any]
    data: Source | None = None
    device: str = CPU

    def words(self) -> str:
        """The trial in words, for example ``batch_norm=True, rate=0.1, seed=3``."""
        return ", ".join(f"{name}={value}" for name, value in sorted(self.trial.items()))


@dataclass(frozen=True)
class Done:
    """The measurements of a trial, and the time that it took; ``error`` says why it measured nothing."""

    outcome: dict[str, Any]
    seconds: float
    error: str = ""


class Pool(Protocol):
    """The place where trials are run: processes here, or a cluster."""

    count: int

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing running."""

    def do(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Done]]:
        """Work tasks off and hand each over as it is finished, in no particular order."""


class Workers:
    """A pool of processes, started when there is something to do and stopped at the end of the ``with`` block.

    Processes are spawned, not forked: a fork of a process that has run threads of a framework can hang.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None and self._lifeline is not None:
            if kind is not None:  # do not wait for trials whose outcome nobody will take
                self._lifeline.close()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._lifeline.close()

    def do(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Done]]:
        """Work tasks off and hand each over as it is finished, in no particular order.

        Raises:
            TrialFailed: a process died.
        """
        if not tasks:
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            # not an Event: setting one waits for every process that ever waited for it, dead ones included
            theirs, self._lifeline = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_prepare, initargs=(theirs,))
        futures = {self._pool.submit(work, task): task for task in tasks}
        for future in as_completed(futures):
            task = futures[future]
            try:
                done = future.result()
            except BrokenProcessPool as error:
                raise TrialFailed(
                    f"a process that worked on experiment {task.experiment!r} died: it was killed, ran out of memory, "
                    "or was started by a script without `if __name__ == '__main__':`; finished trials are kept."
                ) from error
            yield task, done


def cores() -> int:
    """The number of cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work(task: Task) -> Done:
    """Do one trial; an exception becomes text, because not every exception survives the way between processes."""
    began = time.perf_counter()
    try:
        experiment = load(task.experiment, task.folder or FOLDER)
        if "torch" in sys.modules:  # one thread, so that sums are taken in the same order everywhere
            sys.modules["torch"].set_num_threads(1)
            from normwise.lab.data.splits import use  # an experiment that needs no torch needs no data of ours

            use(task.data)
        with on(task.device):
            outcome = experiment.run(experiment.Trial(**task.trial), experiment.Settings(**task.settings))
            found = {name: _plain(value) for name, value in outcome.items()}
        return Done(found, time.perf_counter() - began)
    except Exception as error:
        words = " ".join(str(error).split()) or "no message"
        return Done({}, time.perf_counter() - began, error=f"{type(error).__name__}: {words}")


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: arrays and tensors become lists, and numbers that are not finite become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an outcome holds numbers, words and lists of them: got {type(value).__name__}")


def _prepare(lifeline: Connection) -> None:
    """Called once in every worker, before any trial."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    threading.Thread(target=_leave_when_cut, args=(lifeline,), daemon=True).start()


def _leave_when_cut(lifeline: Connection) -> None:
    """End this process as soon as its parent closes the other end, which it does by dying, too."""
    try:
        lifeline.recv()  # nothing is ever sent
    except EOFError:
        os._exit(1)
