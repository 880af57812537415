"""`normwise swap` and `normwise fold`: other normalization layers in a model, or none, in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from normwise.commands import keras_backend
from normwise.commands.inputs import BATCHES, LAYERS, MODEL, OPTIONAL_DATA, PARTS, options
from normwise.commands.program import Command
from normwise.commands.values import Name, Several, Whole
from normwise.commands.writing import JSON, OUT, task, write
from normwise.swap_settings import APPLY, KINDS

if TYPE_CHECKING:
    from normwise.reports.fold_report import FoldReport
    from normwise.reports.swap_report import SwapReport

_OWN = ("torch", "keras")
_FOR = {**APPLY, "domain": ("torch", "keras", "group", "layer", "instance", "domains")}
_DATA = options(OPTIONAL_DATA, *BATCHES, JSON)


@click.command(cls=Command, epilog="Example: normwise swap nets.py:net --to group --data data.npz --out group.pt")
@options(MODEL, OUT)
@click.option(
    "--to",
    required=True,
    type=Name("target of swap", lambda: (*_OWN, "normwise", *KINDS)),
    help="Kind of the new layers: torch or keras (the framework's own), normwise, group, layer, instance, ghost, "
    "renorm, sync or domains.",
)
@options(PARTS, LAYERS)
@click.option(
    "--num-groups",
    type=Whole(1),
    help="With --to group: largest number of groups of channels. Default: 32",
)
@click.option(
    "--virtual-batch-size",
    type=Whole(1),
    help="With --to ghost: number of samples in a virtual batch. Default: none; give this or --num-splits",
)
@click.option(
    "--num-splits", type=Whole(1), help="With --to ghost: number of virtual batches in a batch. Default: none"
)
@click.option(
    "--domains",
    type=Several(str, "names"),
    help="With --to domains: names of the domains, with commas between them. Default: none",
)
@click.option(
    "--domain",
    metavar="NAME",
    help="Domain whose statistics are kept, if a layer has several; with --to domains, the domain that the new layers "
    "use until the program chooses another. Default: none",
)
@_DATA
def swap(model: str, to: str, layers: list[str] | None, batches: int | None, **given: Any) -> None:
    """Replace the normalization layers of a model by others.

    With --to torch or --to keras, the written file loads where normwise is not installed. With --data, new layers that
    normalize in another way get the scale and shift that keep the mean and variance of the old layer's output on these
    data, and the report says how far the model's output moved. If the command fails, it writes nothing.

    MODEL says where the model is: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, a function without arguments that
    returns a torch.nn.Module; or the path of a .keras file.
    """
    settings = {
        name: given.pop(name) for name in ("num_groups", "virtual_batch_size", "num_splits", "domains", "domain")
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    of_keras = model.endswith(".keras")
    _check_target(to, settings, "keras" if of_keras else "torch", model)

    def work(network: Any, source: Any, **more: Any) -> SwapReport:
        import normwise

        if of_keras:
            keras_backend.import_the_rest()
        return normwise.swap(
            network, to, layers=layers, calibrate=source, **_at_most(source, batches), **more, **settings
        )

    words = "".join(
        f", {name}={value!r}" for name, value in {"layers": layers, **settings}.items() if value is not None
    )
    fits = lambda built: f"normwise.swap({built}, to={to!r}{words})"  # noqa: E731 - a line of Python as it is typed
    write(task(work, lambda found: bool(found.swapped), model=model, fits=fits, **given))


def _check_target(to: str, settings: dict[str, Any], own: str, model: str) -> None:
    """Refuse settings that are of another target, and a target of the other framework."""
    if to in _OWN and to != own:
        kind = "Keras" if own == "keras" else "PyTorch"
        raise click.UsageError(f"--to {to} is not for {kind} models, received {model}: give --to {own} instead.")
    for name in settings:
        if to not in _FOR[name]:
            option, known = "--" + name.replace("_", "-"), _FOR[name]
            targets = f"{', '.join(known[:-1])}{' or ' * bool(known[1:])}{known[-1]}"
            raise click.UsageError(f"{option} is for --to {targets}, received --to {to}: leave out {option}.")
    if to == "domains" and "domains" not in settings:
        raise click.UsageError("--to domains needs the names of the domains: give for example --domains day,night.")
    if to == "ghost" and ("virtual_batch_size" in settings) == ("num_splits" in settings):
        raise click.UsageError("--to ghost needs either --virtual-batch-size or --num-splits: give one of them.")


@click.command(cls=Command, epilog="Example: normwise fold nets.py:net --weights net.pt --out folded.safetensors")
@options(MODEL, OUT, PARTS, LAYERS)
@_DATA
def fold(model: str, layers: list[str] | None, batches: int | None, **given: Any) -> None:
    """Fold a model's batch norms into the layers beside them.

    For deployment: the convolution or linear layer beside a batch norm takes over its work, and the model's outputs at
    inference stay the same. With --data, the report says how far they moved by rounding. If the command fails, it
    writes nothing.

    MODEL says where the model is: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, a function without arguments that
    returns a torch.nn.Module; or the path of a .keras file.
    """
    of_keras = model.endswith(".keras")

    def work(network: Any, source: Any, **more: Any) -> FoldReport:
        import normwise

        if of_keras:
            keras_backend.import_the_rest()
        else:
            network.eval()  # a model is built in training mode, in which nothing can be folded
        return normwise.fold(network, source, layers=layers, **_at_most(source, batches), **more)

    words = "" if layers is None else f", layers={layers!r}"
    mode = "" if of_keras else ".eval()"
    fits = lambda built: f"normwise.fold({built}{mode}{words}).model"  # noqa: E731 - a line of Python as it is typed
    write(task(work, lambda found: bool(found.folded), model=model, fits=fits, **given))


def _at_most(source: Any, batches: int | None) -> dict[str, Any]:
    return {} if source is None else {"at_most": batches}
