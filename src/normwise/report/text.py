"""The same results as the page, as text for a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from normwise.lab.results import Result, Statement, Table, Verdict
from normwise.report import wording
from normwise.report.columns import numeric

_COLOURS = {
    Verdict.REPRODUCED: "green",
    Verdict.EXACT: "green",
    Verdict.SMALLER: "yellow",
    Verdict.NOT_VISIBLE: "yellow",
    Verdict.CONTRADICTED: "red",
    Verdict.ELSEWHERE: "yellow",
    Verdict.OPEN: "dim",
}

ONE_RUN = (
    "These are the verdicts of one run. A verdict counts if a run with other seeds (--first-seed 1000) gives the same."
)


def show(results: Sequence[Result], console: Console) -> None:
    """Prints every experiment's statements with their verdicts and its table, then how many got which verdict.

    Args:
        results: what the experiments concluded.
        console: where to; it knows the width, and whether colours are wanted.

    Raises:
        ValueError: there is no result to show.
    """
    if not results:
        raise ValueError("there is no result to show: run at least one experiment first")
    for result in results:
        console.print()
        console.print(_plain(result.experiment, "bold"))
        console.print(_plain(" ".join(result.question.split()), "dim"))
        if result.data:
            console.print(_plain(f"{result.data}; {result.architecture}", "dim"))
        console.print()
        console.print(_statements(result.conclusion.statements))
        if result.conclusion.table.columns:
            console.print()
            console.print(_plain(result.conclusion.table.caption, "bold"))
            console.print(_table(result.conclusion.table, console.width))
    console.print()
    console.print(_count(results))


def _statements(statements: Sequence[Statement]) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    grid.add_column("Verdict", no_wrap=True)
    grid.add_column("Statement")
    grid.add_column("Measured, 95 % interval", min_width=18)
    for statement in statements:
        effect = statement.effect
        measured = _plain(wording.value(effect), "bold")
        measured.append(_plain(f"\n{wording.interval(effect)}, n = {effect.n}", "not bold dim"))
        text = _plain(statement.text)
        if statement.why:
            text.append(_plain(f"\n{statement.why}", "dim"))
        grid.add_row(_verdict(statement.verdict), text, measured)
    return grid


def _table(table: Table, width: int) -> Grid:
    rows = [[wording.minus(cell) for cell in row] for row in table.rows]
    right = numeric(table)
    natural = _widths([table.columns, *rows])
    narrow = sum(natural) + 3 * len(natural) > width
    columns: list[int | None] = [None] * len(natural)
    if narrow:  # an interval goes beneath its number, and stays in one piece if there is room for all of them
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
        columns = _fitted(table, rows, width)
    padding = (0, 0 if narrow else 1)  # beside the blank that stands between columns anyway
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding, header_style="bold")
    for column, flush, fixed in zip(table.columns, right, columns, strict=True):
        grid.add_column(_plain(column), justify="right" if flush else "left", width=fixed, overflow="fold")
    for row in rows:
        grid.add_row(*(_plain(cell) for cell in row))
    return grid


def _fitted(table: Table, rows: Sequence[Sequence[str]], width: int) -> list[int | None]:
    """The widths at which numbers stay whole and only words are wrapped; none where there is no such choice."""
    words = _widths([[cell.replace(" ", "\n") for cell in row] for row in (table.columns, *rows)])
    lines = _widths(rows)
    right = numeric(table)
    fitted = [max(word, line) if flush else word for word, line, flush in zip(words, lines, right, strict=True)]
    spare = width - sum(fitted) - len(fitted) + 1
    if spare < 0:
        return [None] * len(fitted)
    for place, flush in enumerate(right):
        more = 0 if flush else min(spare, max(0, lines[place] - fitted[place]))
        fitted[place] += more
        spare -= more
    return list(fitted)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The longest line of every column."""
    return [max(len(line) for cell in cells for line in cell.split("\n")) for cells in zip(*rows, strict=True)]


def _verdict(verdict: Verdict) -> Text:
    return Text(f"{wording.SYMBOLS[verdict]} {verdict.value}", style=_COLOURS[verdict])


def _count(results: Sequence[Result]) -> Text:
    counts = wording.count(results)
    line = Text(f"{wording.plural(sum(counts.values()), 'statement')}: ")
    parts = [Text(f"{amount} ") + _verdict(verdict) for verdict, amount in counts.items()]
    return line + Text(", ").join(parts) + _plain(f"\n{ONE_RUN}", "dim")


def _plain(words: str, style: str = "") -> Text:
    """Text that is printed as it is: brackets in it are no markup."""
    return Text(wording.printable(words), style=style)
