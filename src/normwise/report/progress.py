"""Shows how far a run is: live on a terminal, one line per experiment anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from normwise.lab.results import Result
from normwise.report import wording
from normwise.report.time_left import TimeLeft, words


class Bars:
    """A bar for all trials and one for every experiment that runs, the last trial, and the verdicts so far.

    A context manager, and what ``lab.run`` takes as ``progress``.

    Args:
        console: where to; usually standard error, so that standard output holds nothing but results.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, style="dim", complete_style="blue", finished_style="green"),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._live = Live(console=console, refresh_per_second=4, auto_refresh=console.is_terminal)
        self._all: TaskID | None = None
        self._running: dict[str, TaskID] = {}
        self._trials: dict[str, tuple[int, int]] = {}
        self._clock = TimeLeft({}, 1)
        self._last = ""
        self._results: list[Result] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def on_plan(self, trials: Mapping[str, tuple[int, int]], workers: int) -> None:
        """A run begins, with some of its trials there from an earlier one."""
        self._trials = dict(trials)
        self._clock = TimeLeft({name: total - done for name, (total, done) in trials.items()}, workers)
        total, kept = (sum(each[place] for each in trials.values()) for place in (0, 1))
        self._all = self._bars.add_task("all experiments", total=total, completed=kept, left="")
        earlier = f", {kept} of them kept from an earlier run" if kept else ""
        self._say(f"{wording.plural(len(trials), 'experiment')}, {wording.plural(total, 'trial')}{earlier}")
        self._show()

    def on_trial_done(self, experiment: str, trial: str, seconds: float) -> None:
        """One more trial is finished."""
        if experiment not in self._running:
            total, done = self._trials[experiment]
            self._running[experiment] = self._bars.add_task(experiment, total=total, completed=done, left="")
        self._clock.on_trial_done(experiment, seconds)
        self._bars.advance(self._running[experiment])
        if self._all is not None:
            self._bars.update(self._all, advance=1, left=self._left())
        self._last = f"{experiment}: {trial}"
        self._show()

    def on_result(self, result: Result) -> None:
        """An experiment is concluded."""
        self._results.append(result)
        if result.experiment in self._running:
            self._bars.remove_task(self._running.pop(result.experiment))
        found = _verdicts([result])
        left = self._left()
        rest = f"; {len(self._results)} of {len(self._trials)} experiments{f', {left}' if left else ''}"
        self._say(f"{result.experiment}: {found}{rest}")
        self._show()

    def _left(self) -> str:
        said = words(self._clock.seconds())
        return f"about {said} left" if said and self._clock.seconds() > 0 else ""

    def _say(self, line: str) -> None:
        """A line for a log; a terminal has the bars."""
        if not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        if self._console.is_terminal:
            lines = [Text(f"last trial  {self._last}", style="dim", no_wrap=True, overflow="ellipsis")]
            lines.append(Text(f"so far      {_verdicts(self._results) or 'no verdict'}"))
            self._live.update(Group(self._bars, *lines))


def _verdicts(results: list[Result]) -> str:
    """The number of statements with each verdict; verdicts that no statement got are left out."""
    counts = wording.count(results).items()
    return ", ".join(f"{amount} {wording.SYMBOLS[verdict]} {verdict.value}" for verdict, amount in counts if amount)
