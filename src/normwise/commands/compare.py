"""`normwise lab compare`: which normalization suits the user's own model and data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normwise.commands import streams
from normwise.commands.program import Command, interrupted_trials
from normwise.commands.values import File, Number, Place, Several, Time, Whole, allowed, check_data
from normwise.errors import MissingExtra
from normwise.frameworks import installed_version
from normwise.loading import check_folder, check_place, check_source

if TYPE_CHECKING:
    from normwise.lab.comparison import Comparison

_NAMES = "none,batch,ghost,renorm,group,layer,instance"


@click.command(cls=Command, epilog="Example: normwise lab compare nets.py:net --data data.npz --budget 30m")
@click.argument("model", type=Place(lambda place: check_place(place, "MODEL", file=False)))
@click.option(
    "--data",
    required=True,
    type=Place(lambda place: check_place(place, "DATA")),
    metavar="DATA",
    help="Where the data are: FILE.py:FUNCTION, a function that returns the inputs and the targets, or the path of an "
    ".npz file with the arrays x (inputs) and y (targets).",
)
@click.option(
    "--normalizers",
    type=Several(str, "names"),
    default=_NAMES,
    show_default=True,
    help="Normalizations to compare, with commas between them; batch must be among them.",
)
@click.option(
    "--where/--as-built",
    default=True,
    show_default=True,
    help="Also try each batch norm on the other side of its activation, if that place can be found; with --as-built, "
    "do not.",
)
@click.option(
    "--rates",
    type=Several(float, "numbers"),
    default="0.01,0.1,0.5",
    show_default=True,
    help="Learning rates to try, with commas between them.",
)
@click.option(
    "--batch-sizes",
    type=Several(int, "whole numbers"),
    default="32",
    show_default=True,
    help="Numbers of rows per batch to try, with commas between them.",
)
@click.option(
    "--margin",
    type=Number("a number of points above 0, for example 1", zero=False),
    metavar="POINTS",
    default=1.0,
    show_default=True,
    help="Difference that does not matter to you, in points: of accuracy (percent) for classes, of explained variance "
    "(percent) for values.",
)
@click.option(
    "--seeds",
    type=Whole(5),
    default=5,
    show_default=True,
    help="Smallest number of seeds that the last two settings are trained with; if time is left, up to 10.",
)
@click.option(
    "--budget",
    type=Time(),
    default="10m",
    show_default=True,
    help="Time for all trials together, written as 90s, 30m or 2h; the trials that --out holds already count too.",
)
@click.option(
    "--out",
    type=File(folder=True),
    default="comparison",
    show_default=True,
    help="Folder to write comparison.json and the finished trials into.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON instead of text.")
@click.pass_context
def compare(ctx: click.Context, /, model: str, data: str, out: Path, as_json: bool, **how: Any) -> None:
    """Find which normalization suits a model best.

    MODEL is FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, a function without arguments that builds a new
    torch.nn.Module or Keras model with batch norms. The command trains the model with other normalizations in the
    places of the batch norms, by gradient descent with momentum, and prints a recommendation with the numbers behind
    it. Targets that are whole numbers are classes; other targets are values to predict.

    If a run was interrupted, or its budget was too small, the same command continues from the trials in --out.
    """
    from normwise.lab.comparison.arms import AS_BUILT, arms

    allowed(lambda: arms(how["normalizers"], [AS_BUILT], how["rates"], how["batch_sizes"]))
    check_source(model)
    check_data(data)
    check_folder(out)
    for library in ("torch", "scipy"):
        if installed_version(library) is None:
            raise MissingExtra(library, extra="lab")
    from normwise.lab.comparison import compare as compare_all
    from normwise.lab.comparison import reading
    from normwise.lab.running.store import write

    make, identity = reading.model(model)
    try:
        found = compare_all(
            make,
            reading.load(data),
            normalizers=how["normalizers"],
            where=how["where"],
            rates=how["rates"],
            batches=how["batch_sizes"],
            margin=how["margin"],
            seeds=how["seeds"],
            budget=how["budget"],
            out=out,
            identity=identity,
            tell=streams.complain,
        )
    except KeyboardInterrupt:
        interrupted_trials(ctx, out)
    plain = found.to_json()
    kept = out / "comparison.json"
    write(kept, plain + "\n")
    if as_json:
        streams.print_json(plain)
    else:
        click.echo(f"{_words(found)}\n\nThe comparison as JSON: {kept.resolve()}")


def _words(found: Comparison) -> str:
    lines = [found.recommendation, "", *found.evidence, *([""] if found.remarks else []), *found.remarks]
    return "\n".join(lines)
