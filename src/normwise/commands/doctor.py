"""`normwise doctor` and `normwise explain`: what normalization does wrong in a model, and a check's page."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from normwise.commands import keras_backend, streams
from normwise.commands.program import Command
from normwise.commands.values import File, Name, Place, Whole, allowed, check_data
from normwise.errors import MissingExtra
from normwise.frameworks import installed_version
from normwise.loading import (
    WEIGHTS,
    attempt,
    check_file,
    check_place,
    check_source,
    check_suffix,
    check_target,
)


def _checks() -> list[str]:
    from normwise.doctor.check import names

    return names()


@click.command(cls=Command, epilog="Example: normwise doctor nets.py:net --data data.npz --weights net.pt")
@click.argument("model", type=Place(lambda place: check_place(place, "MODEL")))
@click.option(
    "--data",
    required=True,
    type=Place(lambda place: check_place(place, "DATA")),
    metavar="DATA",
    help="The data: FILE.py:FUNCTION that returns batches (a DataLoader, a list), or an .npz file with arrays.",
)
@click.option(
    "--weights",
    type=File(),
    help="Weights to load into a PyTorch model first, from a .safetensors, .pt or .pth file. Default: those that MODEL "
    "comes with",
)
@click.option(
    "--source",
    type=Place(lambda place: check_place(place, "MODEL")),
    metavar="MODEL",
    help="The model that MODEL was derived from (folded, averaged, converted). Default: nothing is compared",
)
@click.option("--html", type=File(), help="Write the diagnosis as a page to this .html file. Default: no page")
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
@click.option(
    "--only",
    multiple=True,
    type=Name("check", _checks),
    metavar="CHECK",
    help="Run this check only (repeatable). Default: all that run by themselves",
)
@click.option(
    "--allow",
    multiple=True,
    type=Name("check", _checks),
    metavar="CHECK",
    help="Leave this check out (repeatable). Default: none",
)
@click.option("--batches", type=Whole(1), help="Batches to use, at most. Default: all")
@click.option(
    "--batch-size", type=Whole(1), default=64, show_default=True, help="Rows per batch when --data is an .npz."
)
@click.option("--device", metavar="NAME", help="Device, e.g. cuda. Default: where the model already is")
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    model: str,
    data: str,
    weights: Path | None,
    source: str | None,
    html: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Name what normalization does wrong in a model.

    It says in which layer, with the number that proves it and a remedy.

    MODEL is FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION that returns a torch.nn.Module, or a .keras file. The model is
    not changed. The exit code is 0 where nothing is wrong and 1 where there is an error among the findings.
    """
    if html is not None:
        allowed(lambda: check_suffix(html, (".html", ".htm"), "a page is"))
        check_target(html)
    if data.endswith(".npz"):
        pass
    elif ctx.get_parameter_source("batch_size") is not ParameterSource.DEFAULT:
        raise click.UsageError(f"--batch-size is for an .npz, and {data} makes its own batches: leave it out.")
    with redirect_stdout(sys.stderr):  # what the user's own code prints
        load = _of_keras if model.endswith(".keras") else _of_torch
        network, origin, batches = load(model, data, weights, source, **how)
        from normwise.doctor.examination import examine

        def work() -> Any:
            settings = {"only": how["only"] or None, "allow": how["allow"], "at_most": how["batches"]}
            return examine(network, batches, source_model=origin, **settings)

        diagnosis = attempt(work, f"{model} on {data}")
    if html is not None:
        from normwise.report import diagnosis_page

        diagnosis_page.write(diagnosis, html, title=model)
    if as_json:
        streams.print_json(diagnosis.to_json())
    else:
        from normwise.report import diagnosis_text

        diagnosis_text.show(diagnosis)
        if html is not None:
            click.echo(f"The page: {html.resolve()}")
    ctx.exit(1 if diagnosis.sick else 0)


def _of_torch(
    model: str,
    data: str,
    weights: Path | None,
    source: str | None,
    *,
    batch_size: int,
    device: str | None,
    **_: Any,
) -> tuple[Any, Any, Any]:
    """The model, its source, and the batches; what can be wrong without PyTorch, before that is imported."""
    if weights is not None:
        allowed(lambda: check_suffix(weights, WEIGHTS, "weights are"))
        check_file(weights, "the weights")
    for place in (model, source):
        if place is not None:
            check_source(place)
    check_data(data)
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    from normwise.torch.models import loading

    if device is not None:
        allowed(lambda: loading.check_device_name(device))
        loading.check_device(device)
    network = loading.load_model(model, weights)
    origin = None if source is None else loading.load_model(source)
    if device is not None:
        for each in (network, origin):
            if each is not None:
                attempt(partial(each.to, device), f"moving {model} to --device {device}")
    return network, origin, loading.load_batches(data, network, batch_size)


def _of_keras(
    model: str,
    data: str,
    weights: Path | None,
    source: str | None,
    *,
    device: str | None,
    **_: Any,
) -> tuple[Any, Any, Any]:
    """The same for models of Keras's, on the backend that KERAS_BACKEND names."""
    for option, given in (("--weights", weights), ("--device", device)):
        if given is not None:
            raise click.UsageError(
                f"{option} is for PyTorch models, received {str(given)!r} with {model}: leave it out."
            )
    from normwise.archives import check_keras

    for place in (model, source):
        if place is not None:
            check_keras(Path(place))
    check_data(data)
    keras_backend.check()
    with keras_backend.quiet():
        loading = attempt(lambda: import_module("normwise.keras.models.loading"), "importing Keras")
    network = loading.load_model(model)
    return network, None if source is None else loading.load_model(source), loading.load_batches(data, network)


@click.command(cls=Command, epilog="Example: normwise explain stale_running_statistics")
@click.argument("check", type=Name("check", _checks))
def explain(check: str) -> None:
    """Print what a check of the doctor finds.

    Also why that is bad, how it is measured, its limits, and what to do.
    """
    from normwise.doctor.check import load

    found = load(check)
    limits = "\n".join(
        f"    {name}: {value:g} {unit}; {origin}" for name, (value, unit, origin) in found.LIMITS.items()
    )
    click.echo(f"{check}\n\n{found.__doc__.strip()}\n\nLimits:\n{limits}\n\nRemedy:\n    {found.REMEDY}")
