"""Trials that are run by the workers of a Dask cluster, on this machine or on others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Self

from normwise.errors import MissingExtra, NormwiseError
from normwise.lab.experiment import FOLDER
from normwise.lab.running import stamp
from normwise.lab.running.workers import Done, Task, TrialFailed, work

WAIT = 20.0
"""Seconds to wait for a scheduler and its first worker."""
_one_at_a_time = threading.Lock()


class Cluster:
    """The workers of a cluster; the scheduler gives a trial whose worker died to another one.

    Args:
        address: of the scheduler, for example ``"tcp://10.0.0.1:8786"``.

    Raises:
        MissingExtra: distributed is not installed.
        NormwiseError: no scheduler answers there, or it has no worker.
    """

    def __init__(self, address: str) -> None:
        if find_spec("distributed") is None:
            raise MissingExtra("distributed", extra="dask")
        import distributed

        library: Any = distributed  # its functions have no types
        try:
            self._client: Any = library.Client(address, timeout=WAIT, set_as_default=False)
        except (OSError, ValueError) as error:  # a timeout is an OSError
            raise NormwiseError(
                f"no Dask scheduler answers at {address!r}: start one with `dask scheduler`, and give its address."
            ) from error
        try:
            self._client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError as error:
            self._client.close()
            raise NormwiseError(
                f"the Dask scheduler at {address!r} has no worker: start some with `dask worker {address}`."
            ) from error
        self.count = len(self._client.scheduler_info(n_workers=-1)["workers"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()  # the scheduler forgets what nobody waits for any more

    def do(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Done]]:
        """Work tasks off and hand each over as it is finished, in no particular order.

        Raises:
            TrialFailed: a trial killed its workers one after the other, or a worker has another normwise.
        """
        import distributed

        library: Any = distributed
        origins = {task.experiment: stamp.origin(task.experiment, task.folder or FOLDER) for task in tasks}
        # not pure: what was measured under another version of the code must not be taken from the cluster's memory
        futures = {future: task for task in tasks for future in [self._client.submit(work_there, task, pure=False)]}
        for future in library.as_completed(futures, loop=self._client.loop):
            task = futures[future]
            try:
                origin, done = future.result()
            except Exception as error:
                raise TrialFailed(
                    f"the Dask workers that worked on experiment {task.experiment!r}, trial {task.words()}, died or "
                    f"could not be asked: {type(error).__name__}: {' '.join(str(error).split())}; "
                    "finished trials are kept."
                ) from error
            if origin != origins[task.experiment] and not done.error:
                raise TrialFailed(
                    "a Dask worker has another version of normwise, of the experiment or of a library than this "
                    "process, so that its numbers would not belong to this run: install the same everywhere."
                )
            future.release()
            yield task, done


def work_there(task: Task) -> tuple[str, Done]:
    """Run a trial on a worker, one at a time whatever number of threads it has, since trials share global state."""
    with _one_at_a_time:
        try:
            origin = stamp.origin(task.experiment, task.folder or FOLDER)
        except (NormwiseError, OSError):
            origin = ""  # the trial itself says what is missing
        return origin, work(task)
