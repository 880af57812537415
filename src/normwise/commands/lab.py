"""`normwise lab`: list the experiments, run them, and write what they found."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normwise.commands.compare import compare
from normwise.commands.program import INTERRUPTED, Group, help_alone

if TYPE_CHECKING:
    from normwise.lab.results import Result


@click.group("lab", cls=Group, invoke_without_command=True, epilog="Example: normwise lab list")
@click.pass_context
def lab(ctx: click.Context) -> None:
    """Measure which claims about batch normalization hold."""
    help_alone(ctx)


@lab.command("list", epilog="Example: normwise lab list --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lab_list(as_json: bool) -> None:
    """List the experiments and the question that each answers."""
    from normwise.lab import describe, names

    width = min(100, shutil.get_terminal_size().columns)
    found = [describe(name) for name in names()]
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return
    for place, each in enumerate(found):
        if place:
            click.echo()
        click.secho(each.name, bold=True)
        words = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        click.echo(words.fill(each.question))


@lab.command("run", epilog="Example: normwise lab run does_it_train_faster --seeds 10")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--seeds", type=int, metavar="N", help="Repeat every trial with N seeds, at least 2; 10 unless it is said."
)
@click.option(
    "--first-seed", type=int, default=0, metavar="N", help="Begin with this seed, to see whether verdicts hang on them."
)
@click.option("--quick", is_flag=True, help="Take 3 seeds, and smaller grids where there are some.")
@click.option("--full", is_flag=True, help="Take larger grids where there are some.")
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Use N processes; as many as cores by default."
)
@click.option("--dask", metavar="ADDRESS", help="Use the workers of the Dask scheduler there, not processes here.")
@click.option("--data", metavar="NAME", help="Take mnist, svhn or cifar10 in the place of the digits.")
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="The folder with its original files.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("report"),
    show_default=True,
    help="Put the page and what was measured into this folder.",
)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Put the results there too, to compare.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else.")
@click.pass_context
def lab_run(
    ctx: click.Context,
    /,
    names: Sequence[str],
    out: Path,
    data: str | None,
    data_dir: Path | None,
    keep: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Run experiments and write a page of what they found.

    Without a NAME all of them are run. A run that was interrupted continues where it stopped; what is finished is not
    run again.
    """
    from rich.console import Console

    from normwise import lab as room
    from normwise.report import page, progress

    page.require()  # before minutes are spent on results that could not be shown
    if (data is None) != (data_dir is None):
        raise click.UsageError("--data and --data-dir belong together: give both, or neither.")
    chosen = None if data is None or data_dir is None else (data, data_dir)
    written = out / "index.html"
    try:
        with progress.Bars(Console(stderr=True)) as bars:
            results = room.run(tuple(dict.fromkeys(names)), out=out, progress=bars, data=chosen, **how)
    except room.TrialFailed as error:
        if error.finished:
            page.write(error.finished, written)
            click.echo(f"The page of what is finished: {written.resolve()}", err=True)
        raise
    except KeyboardInterrupt:
        click.echo(
            f"\nnormwise: interrupted; finished trials are kept in {out}, and the same command continues from there.",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    page.write(results, written)
    if keep is not None:
        from normwise.lab.store import keep as put

        put(results, keep)
    _print(results, as_json)
    click.echo(f"The page: {written.resolve()}", err=as_json)


def _print(results: Sequence[Result], as_json: bool) -> None:
    if as_json:
        from normwise.lab.results import to_json

        click.echo("[" + ",\n".join(to_json(result) for result in results) + "]")
        return
    from rich.console import Console

    from normwise.report import text

    console = Console()
    with console.capture() as captured:  # printed by click, which leaves a broken pipe to Program
        text.show(results, console)
    click.echo(captured.get(), nl=False, color=console.is_terminal and not console.no_color)


lab.add_command(compare)
