"""`normwise recalibrate` and `normwise adapt`: new statistics for a model's batch norms, from data, in a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normwise.errors import MissingExtra, NothingChanged
from normwise.frameworks import installed_version

if TYPE_CHECKING:
    from normwise.recalibration.adaptation_report import AdaptReport
    from normwise.recalibration.report import RecalibrateReport

_PLACES = (
    click.argument("model"),
    click.option("--data", required=True, help="FILE.py:CALLABLE that returns an iterable of batches, or an .npz."),
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path),
        help="Write the weights here; of a .keras file the whole model.",
    ),
    click.option("--weights", type=click.Path(path_type=Path), help="Read the model's weights: .safetensors or .pt."),
)
_DATA = (
    click.option("--upstream", default="inference", show_default=True, help="Layers below normalize so, or by batch."),
    click.option("--batches", type=int, metavar="N", help="Use so many batches."),
    click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows of an .npz."),
    click.option("--device", metavar="NAME", help="Work there, for example on cuda; as the model comes otherwise."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def _with(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """The options above a command, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command(epilog="Example: normwise recalibrate nets.py:net --data data.npz --out new.pt")
@_with(_PLACES)
@click.option("--estimator", default="pooled", show_default=True, help="How batches become statistics.")
@click.option("--tolerance", type=float, metavar="X", help="Stop at this standard error, in standard deviations.")
@_with(_DATA)
def recalibrate(model: str, batches: int | None, estimator: str, tolerance: float | None, **places: Any) -> None:
    """Set the statistics of a model's batch norms to those of data.

    MODEL is FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE that returns a torch.nn.Module, or a .keras file. A failure
    writes nothing.
    """

    def work(network: Any, source: Any, **more: Any) -> RecalibrateReport:
        from normwise import surgery

        settings = {"at_most": batches, "estimator": estimator, "tolerance": tolerance, **more}
        with _said_by_the_command():
            return surgery.recalibrate(network, source, **settings)

    _write(model, work, lambda found: bool(found.recalibrated), **places)


@click.command(epilog="Example: normwise adapt nets.py:net --data shifted.npz --out adapted.pt")
@_with(_PLACES)
@click.option("--prior", type=float, metavar="N", help="The model's statistics count for so many samples.")
@_with(_DATA)
def adapt(model: str, batches: int | None, prior: float | None, **places: Any) -> None:
    """Move a model's statistics towards those of shifted data.

    MODEL is FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE that returns a torch.nn.Module, or a .keras file. A failure
    writes nothing.
    """

    def work(network: Any, source: Any, **more: Any) -> AdaptReport:
        from normwise import surgery

        settings: dict[str, Any] = {} if prior is None else {"prior": prior}
        with _said_by_the_command():
            return surgery.adapt(network, source, at_most=batches, **settings, **more)

    _write(model, work, lambda found: bool(found.adapted), **places)


def _write(
    model: str,
    work: Callable[..., Any],
    changed: Callable[[Any], bool],
    *,
    data: str,
    out: Path,
    weights: Path | None,
    upstream: str,
    batch_size: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Load, work, save, and say what was done."""
    if model.endswith(".keras"):
        _write_keras(model, work, changed, data, out, weights, upstream, batch_size, device, as_json)
        return
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    from normwise.torch import loading

    loading.check_weights_name(out)
    network = loading.load_model(model, weights)
    if device is not None:
        loading.attempt(lambda: network.to(device), f"moving {model} to --device {device}")
    source = loading.load_batches(data, network, batch_size)
    found = loading.attempt(lambda: work(network, source, upstream=upstream), f"{model} on {data}")
    _refuse_unchanged(model, found, changed)
    if device is not None:
        network.cpu()  # a file for any machine
    loading.save_weights(network, out)
    click.echo(found.to_json() if as_json else f"{found}\nThe weights: {out.resolve()}")


def _write_keras(
    model: str,
    work: Callable[..., Any],
    changed: Callable[[Any], bool],
    data: str,
    out: Path,
    weights: Path | None,
    upstream: str,
    batch_size: int,
    device: str | None,
    as_json: bool,
) -> None:
    """The same for a model of Keras's, on the backend that KERAS_BACKEND names."""
    if installed_version("keras") is None:
        raise MissingExtra("keras", extra="keras")
    for option, given in (("--weights", weights), ("--device", device)):
        if given is not None:
            raise click.UsageError(
                f"{option} is for PyTorch models, received {str(given)!r} with {model}: leave it out."
            )
    from normwise.loading import attempt

    loading = attempt(lambda: import_module("normwise.keras.loading"), "importing Keras")
    loading.check_name(out)
    network = loading.load_model(model)
    source = loading.load_batches(data, network)
    found = attempt(lambda: work(network, source, upstream=upstream, batch_size=batch_size), f"{model} on {data}")
    _refuse_unchanged(model, found, changed)
    loading.save_model(network, out)
    click.echo(found.to_json() if as_json else f"{found}\nThe model: {out.resolve()}")


def _refuse_unchanged(model: str, found: Any, changed: Callable[[Any], bool]) -> None:
    if not changed(found):
        raise click.ClickException(" ".join(f"{model}: {found}; nothing was written.".replace("\n", ";").split()))


@contextmanager
def _said_by_the_command() -> Iterator[None]:
    """That nothing changed is an error of a command, and no warning too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)
        yield
