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

_COLOURS = {Verdict.HOLDS: "green", Verdict.DOES_NOT_HOLD: "red", Verdict.UNDECIDED: "yellow"}


def show(results: Sequence[Result], console: Console) -> None:
    """Prints every experiment's statements with their verdicts and its table, then how many statements hold.

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
        console.print(_statements(result.conclusion.statements))
        if result.conclusion.table.columns:
            console.print(_table(result.conclusion.table))
        for caveat in result.conclusion.caveats:
            console.print(_plain(f"Caveat: {caveat}", "dim"))
    console.print()
    console.print(_count(results))


def _statements(statements: Sequence[Statement]) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, expand=False, header_style="bold")
    grid.add_column("Verdict", no_wrap=True)
    grid.add_column("Statement", ratio=1, overflow="fold")
    grid.add_column("Measured, 95 % interval", overflow="fold", min_width=16)
    for place, statement in enumerate(statements):
        words = _plain(statement.text)
        words.append(_plain(f"\nholds if {statement.counts_as_holding}", "dim"))
        if statement.published:
            words.append(_plain(f"\npublished: {statement.published}", "dim"))
        effect = statement.effect
        measured = _plain(wording.value(effect), "bold")
        measured.append(_plain(f"\n{wording.interval(effect)}\nn = {effect.n}", "dim"))
        grid.add_row(_verdict(statement.verdict), words, measured, end_section=place == len(statements) - 1)
    return grid


def _table(table: Table) -> Grid:
    grid = Grid(
        title=_plain(table.caption, "bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, header_style="bold"
    )
    for column, right in zip(table.columns, numeric(table), strict=True):
        grid.add_column(_plain(column), justify="right" if right else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(_plain(cell) for cell in row))
    return grid


def _verdict(verdict: Verdict) -> Text:
    return Text(f"{wording.SYMBOLS[verdict]} {verdict.value}", style=_COLOURS[verdict])


def _count(results: Sequence[Result]) -> Text:
    counts = wording.count(results)
    line = Text(f"{wording.plural(sum(counts.values()), 'statement')}: ")
    parts = [Text(f"{amount} ") + _verdict(verdict) for verdict, amount in counts.items()]
    return line + Text(", ").join(parts)


def _plain(words: str, style: str = "") -> Text:
    """Text that is printed as it is: brackets in it are no markup."""
    return Text(wording.printable(words), style=style)
