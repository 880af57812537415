"""`normwise lab compare`: which normalization suits the user's own model and data."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normwise.commands.program import INTERRUPTED
from normwise.errors import MissingExtra
from normwise.frameworks import installed_version

if TYPE_CHECKING:
    from normwise.lab.comparison import Comparison

_NAMES = "none,batch,ghost,renorm,group,layer,instance"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """``90s``, ``30m`` or ``2h``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is no time: write it as 90s, 30m or 2h")
    return float(found[1]) * _SECONDS[found[2]]


def _list(kind: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """Values with commas between them."""

    def convert(_ctx: click.Context, _param: click.Parameter, value: str) -> list[Any]:
        try:
            return [kind(each.strip()) for each in value.split(",")]
        except ValueError:
            raise click.BadParameter(f"{value!r} is no list of numbers with commas between them") from None

    return convert


@click.command(epilog="Example: normwise lab compare nets.py:net --data data.npz --budget 30m")
@click.argument("model")
@click.option(
    "--data", required=True, help="FILE.py:CALLABLE that returns inputs and targets, or an .npz with x and y."
)
@click.option("--normalizers", callback=_list(str), default=_NAMES, show_default=True, help="Put these in turn.")
@click.option(
    "--where/--as-built",
    default=True,
    show_default=True,
    help="Also try the other side of the activation, before it or after it, where that can be told.",
)
@click.option(
    "--rates", callback=_list(float), default="0.01,0.1,0.5", show_default=True, help="Learning rates to try."
)
@click.option("--batch-sizes", callback=_list(int), default="32", show_default=True, help="Sizes of batches to try.")
@click.option(
    "--margin",
    type=float,
    default=1.0,
    show_default=True,
    help="Differences within this many points do not matter: of accuracy, or of explained variance.",
)
@click.option(
    "--seeds",
    type=int,
    default=5,
    show_default=True,
    help="Paired seeds of the last comparison, at least; up to 10 where the budget allows it.",
)
@click.option(
    "--budget",
    callback=_seconds,
    default="10m",
    show_default=True,
    help="Time to spend, 90s, 30m or 2h; what trials in --out took is part of it.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("comparison"),
    show_default=True,
    help="Keep finished trials and what was found in this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def compare(ctx: click.Context, /, model: str, data: str, out: Path, as_json: bool, **how: Any) -> None:
    """Find which normalization suits a model best.

    MODEL is FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE that builds a new torch.nn.Module or Keras model with batch
    norms; others take their places. It is trained by gradient descent with momentum; targets that are whole numbers
    are classes. A run that was interrupted, or one with a larger budget, goes on from the trials in --out.
    """
    for library in ("torch", "scipy"):
        if installed_version(library) is None:
            raise MissingExtra(library, extra="lab")
    from normwise.lab.comparison import compare as compare_all
    from normwise.lab.comparison import reading
    from normwise.lab.store import write

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
            tell=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt:
        click.echo(
            f"\nnormwise: interrupted; finished trials are kept in {out}, and the same command goes on from there.",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    plain = found.to_json()
    write(out / "comparison.json", plain + "\n")
    click.echo(plain if as_json else _words(found))


def _words(found: Comparison) -> str:
    lines = [found.recommendation, "", *found.evidence, *([""] if found.remarks else []), *found.remarks]
    return "\n".join(lines)
