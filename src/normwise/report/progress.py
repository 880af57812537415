"""Shows how far a run is: bars on a terminal, one line per experiment anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from normwise.lab.results import Result


class Bars:
    """A bar per experiment and one for all of them; a context manager, and what ``lab.run`` takes as ``progress``.

    Args:
        console: where to; usually standard error, so that standard output holds nothing but results.
        experiments: how many there will be.
    """

    def __init__(self, console: Console, experiments: int) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, style="dim", complete_style="blue", finished_style="green"),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._all = self._bars.add_task("all experiments", total=experiments, visible=experiments > 1)
        self._running: dict[str, TaskID] = {}
        self._share = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on_start(self, experiment: str, total: int, done: int) -> None:
        """An experiment begins, with some of its trials there from an earlier run."""
        self._running[experiment] = self._bars.add_task(experiment, total=total, completed=done)
        self._share = 1 / max(1, total)
        self._bars.advance(self._all, done * self._share)
        if not self._console.is_terminal:
            kept = f", {done} of them kept from an earlier run" if done else ""
            self._console.print(f"{experiment}: {total} trials{kept}", markup=False, highlight=False, soft_wrap=True)

    def on_trial_done(self, experiment: str, trial: str) -> None:  # noqa: ARG002 - the protocol's; a bar has no room
        """One more trial is finished."""
        self._bars.advance(self._running[experiment])
        self._bars.advance(self._all, self._share)

    def on_result(self, result: Result) -> None:
        """An experiment is concluded."""
