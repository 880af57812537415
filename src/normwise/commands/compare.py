"""`normwise lab compare`: which normalization suits the user's own model and data."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from normwise.errors import MissingExtra, UnknownName
from normwise.frameworks import installed_version

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
            return [kind(each) for each in value.split(",")]
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
    "--rates", callback=_list(float), default="0.01,0.1,0.5", show_default=True, help="Learning rates to try."
)
@click.option("--batch-sizes", callback=_list(int), default="32", show_default=True, help="Sizes of batches to try.")
@click.option("--budget", callback=_seconds, default="10m", show_default=True, help="Time to spend: 90s, 30m or 2h.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write what was found here, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(
    model: str,
    data: str,
    normalizers: list[str],
    rates: list[float],
    batch_sizes: list[int],
    budget: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find which normalization suits a model best.

    MODEL is FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE that returns a new torch.nn.Module with batch norms; the others
    take their places. It is trained by gradient descent with momentum; targets that are whole numbers are classes.
    """
    for library in ("torch", "scipy"):
        if installed_version(library) is None:
            raise MissingExtra(library, extra="lab")
    from normwise.lab import compare_data
    from normwise.lab.compare import compare as compare_all
    from normwise.lab.compare_layers import NORMALIZERS, places
    from normwise.lab.store import write
    from normwise.torch import loading

    for name in normalizers:
        if name not in NORMALIZERS:
            raise UnknownName("normalizer", name, NORMALIZERS)
    places(loading.load_model(model))  # what is wrong with it is said before the data are read
    found = compare_all(
        lambda: copy.deepcopy(loading.load_model(model)),  # MODEL may name a module, which is always the same one
        compare_data.load(data),
        normalizers=normalizers,
        rates=rates,
        batches=batch_sizes,
        budget=budget,
        tell=lambda line: click.echo(line, err=True),
    )
    plain = json.dumps(asdict(found), indent=1)
    if out is not None:
        write(out, plain)
    click.echo(plain if as_json else found.recommendation)
