"""Measure how fast it is, and whether it is right at that speed. From the repository: python -m benchmarks.run --quick.

Every shape of ``shapes.py`` in every dtype, layout, operation, pass and memory treatment, against the peers, in turn.
Ends with 1 where a call does not agree with the float64 formulas; such a call is not timed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from benchmarks import memory, networks, parts, peers, report, rows, shapes, steps, tables, targets
from benchmarks import recalibration as new_statistics
from benchmarks.cases import DTYPES, LAYOUTS, OPERATIONS, PASSES, Case, cases
from benchmarks.kept import RESULTS, Conditions
from normwise.lab.results import Table

WIDTH = 165  # of the table of rows; a narrower terminal breaks lines by itself


def _choice(name: str, choices: Sequence[str], default: Sequence[str], words: str) -> click.Option:
    text = f"{words} (repeatable)"
    kind = click.Choice(list(choices))
    return click.Option([name], type=kind, multiple=True, default=tuple(default), show_default=True, help=text)


@click.pass_context
def main(
    context: click.Context,
    *,
    only: str,
    dtype: tuple[str, ...],
    layout: tuple[str, ...],
    op: tuple[str, ...],
    phase: tuple[str, ...],
    memories: tuple[str, ...],
    repeats: int,
    seconds: float,
    threads: int,
    quick: bool,
    compiled: bool,
    network: str,
    recalibration: str,
    part: tuple[str, ...],
    out: Path,
) -> None:
    torch.set_num_threads(threads)
    chosen_by_hand = {
        name for name in context.params if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if quick:
        op = op if "op" in chosen_by_hand else ("bn+relu", "bn+add+relu")
        memories = memories if "memories" in chosen_by_hand else ("reused",)
        repeats = repeats if "repeats" in chosen_by_hand else 9
        seconds = seconds if "seconds" in chosen_by_hand else 0.4
    rest = 0
    if part:
        _refuse_what_parts_ignore(part, chosen_by_hand)
        rest = parts.run(part, quick=quick, threads=threads if "threads" in chosen_by_hand else None, out=out)
        here = parts.in_this_process(part)
        network = "yes" if len(here) > 1 else "no" if "layers" in here else "only"
        if not here:
            sys.exit(rest)
    if recalibration != "no":
        new_statistics.run(out, quick=quick)
    if recalibration == "only":
        return
    console = Console(stderr=True)
    known = shapes.QUICK if quick else shapes.ALL
    treatments = [name for name in memory.TREATMENTS if name in memories]
    options = {"dtypes": dtype, "layouts": layout, "operations": op, "phases": phase, "memories": treatments}
    chosen = list(cases(known, **options, only=only))
    chosen = [] if network == "only" else chosen
    whole = [
        setting
        for setting in steps.settings(networks.QUICK if quick else networks.NETWORKS, layout, dtype)
        if network != "no" and only in setting.name
    ]
    if not chosen and not whole:
        raise click.UsageError("nothing is selected: no row's name has all of that in it")
    others = [peers.EAGER, *([peers.COMPILED, peers.OURS_COMPILED] if compiled else []), peers.KERAS, peers.COPY]
    conditions = Conditions()
    measured: list[rows.Row] = []
    stepped: list[steps.Step] = []
    interrupted = False
    with _bar(console) as bar:
        task = bar.add_task("", total=len(chosen) + len(whole))
        try:
            memory.treat("default")
            for setting in whole:
                bar.update(task, description=setting.name)
                rounds, longest = (5, seconds) if quick else (max(5, repeats // 2), 20 * seconds)
                stepped.append(steps.measure(setting, compiled=compiled, rounds=rounds, seconds=longest))
                bar.advance(task)
            for case in chosen:
                bar.update(task, description=case.name)
                measured.append(_row(case, others, repeats, seconds))
                bar.advance(task)
        except KeyboardInterrupt:
            interrupted = True
            console.print("Interrupted: what was measured is written.")
    after = conditions.after()
    date, machine = after["date"], after["machine"]
    used = {"op": op, "memories": memories, "repeats": repeats, "seconds": seconds}
    given = {name: value for name, value in context.params.items() if name != "out"}
    settings = {"date": date, "interrupted": interrupted, **given, **used}
    run = report.Run(
        settings, machine, tuple(measured), tuple(stepped),
        tuple(targets.means(measured)), tuple(targets.judge(measured, stepped)),
    )  # fmt: skip
    selected = bool(chosen_by_hand & {"only", "dtype", "layout", "op", "phase", "memories"})
    complete = not (selected or quick or interrupted or network != "yes")
    show(run, Console(width=max(Console().width, WIDTH)))
    for path in report.write(run, out, report.stem(date, machine, complete=complete, calm=machine["calm"])):
        click.echo(f"Written: {path}")
    if any(row.refused for row in measured) or any(step.skipped.startswith("REFUSED") for step in stepped):
        sys.exit(1)
    sys.exit(rest)


def _refuse_what_parts_ignore(part: Sequence[str], chosen_by_hand: set[str]) -> None:
    twice = sorted(chosen_by_hand & {"network", "recalibration"})
    if twice:
        raise click.UsageError(f"--part says what to measure, and so does --{twice[0]}: leave out one of them")
    ignored = sorted(chosen_by_hand - {"part", "quick", "threads", "out"})
    if ignored and not parts.in_this_process(part):
        raise click.UsageError(
            f"the parts {', '.join(part)} do not take {', '.join(ignored)}: leave that out, or add --part layers"
        )


def _row(case: Case, others: Sequence[str], repeats: int, seconds: float) -> rows.Row:
    try:
        memory.treat(case.memory)
    except memory.NoTreatment as why:
        return rows.Row(case, "–", "", absent=dict.fromkeys(others, str(why)))
    return rows.measure(case, others, rounds=repeats, seconds=seconds)


def _bar(console: Console) -> Progress:
    parts = (MofNCompleteColumn(), BarColumn(24), TimeRemainingColumn(compact=True), TextColumn("{task.description}"))
    return Progress(*parts, console=console, disable=not console.is_terminal, transient=True)


def show(run: report.Run, console: Console) -> None:
    """Prints what a person wants to know first."""
    for table in tables.all_of(run.rows, run.means, run.steps)[:3]:
        console.print(_grid(table))
    grid = Grid(title="Targets", title_justify="left", box=None, pad_edge=False)
    for heading in ("target", "wanted", "measured", "verdict"):
        grid.add_column(heading, overflow="fold")
    for target in run.targets:
        if target.met is not None:
            verdict = "[green]met[/]" if target.met else "[red]missed[/]"
            note = f" ({target.note})" if target.note else ""
            grid.add_row(escape(target.text + note), target.wanted, target.measured, verdict)
            for offender in target.offenders[:5]:
                grid.add_row(escape(f"    {offender}"))
    console.print(grid)
    for row in run.rows:
        if row.refused:
            console.print(f"[red]REFUSED[/] {escape(row.case.name)}: {escape(row.refused)}", soft_wrap=True)
    if not run.machine["calm"]:
        console.print(f"[red]{report.BUSY}[/]", soft_wrap=True)
    reasons = {f"{peer}: {why}" for row in run.rows for peer, why in row.absent.items()}
    for reason in sorted(reasons):
        console.print(f"Not measured: {escape(reason)}", soft_wrap=True)


def _grid(table: Table) -> Grid:
    grid = Grid(title=table.caption, title_justify="left", box=None, pad_edge=False)
    for heading in table.columns:
        grid.add_column(heading, no_wrap=True)
    for line in table.rows:
        grid.add_row(*map(escape, line))
    return grid


command = click.Command(
    "benchmarks",
    callback=main,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    params=[
        click.Option(["--only"], default="", metavar="TEXT", help="rows with this in their name"),
        _choice("--dtype", list(DTYPES), ("float32", "bfloat16"), "of the activations"),
        _choice("--layout", LAYOUTS, LAYOUTS, "where the channels are in memory"),
        _choice("--op", OPERATIONS, OPERATIONS, "what is computed"),
        click.Option(
            ["--pass", "phase"], type=click.Choice(PASSES), multiple=True, default=PASSES, show_default=True,
            help="which way through the network (repeatable)",
        ),
        click.Option(
            ["--memory", "memories"], type=click.Choice(list(memory.TREATMENTS)), multiple=True,
            default=("fresh", "reused"), show_default=True, help="where outputs come from (repeatable)",
        ),
        click.Option(
            ["--part"], type=click.Choice(parts.PARTS), multiple=True,
            help="only that (repeatable): layers, steps, or what is measured in a process of its own, whose options "
            "`python -m benchmarks.<its module> --help` lists, with --quick, --threads and --out of these here",
        ),
        click.Option(["--repeats"], type=click.IntRange(1), default=21, show_default=True, help="rounds at most"),
        click.Option(
            ["--seconds"], type=float, default=3.0, show_default=True, help="for the rounds of a row, from the fifth on"
        ),
        click.Option(["--threads"], type=click.IntRange(1), default=torch.get_num_threads, help="of everybody"),
        click.Option(
            ["--quick"], is_flag=True,
            help="a look, not a result: a few shapes, what is fused, reused memory, a small network; under 2 minutes",
        ),
        click.Option(["--compile", "compiled"], is_flag=True, help="torch.compile too: 5 to 30 seconds more per row"),
        click.Option(
            ["--network"], type=click.Choice(["yes", "no", "only"]), default="yes", show_default=True,
            help="training steps of whole networks; with --compile, compiled too",
        ),
        click.Option(
            ["--recalibration"], type=click.Choice(["yes", "no", "only"]), default="no", show_default=True,
            help="recalibrate on ResNet-50 against update_bn: in step, and layer by layer, which takes minutes",
        ),
        click.Option(["--out"], type=click.Path(path_type=Path), default=RESULTS, help="folder of the results"),
    ],
)  # fmt: skip

if __name__ == "__main__":
    command()
