"""`normwise recalibrate` and `normwise adapt`: new statistics for a model's batch norms, from data, in a file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from normwise.commands import keras_backend, streams
from normwise.commands.program import Command
from normwise.commands.values import Factor, File, Name, Number, Place, Whole, allowed, check_data
from normwise.errors import MissingExtra, NothingChanged
from normwise.frameworks import installed_version
from normwise.loading import (
    READABLE,
    WEIGHTS,
    attempt,
    check_file,
    check_place,
    check_source,
    check_suffix,
    check_target,
    split_key,
)

if TYPE_CHECKING:
    from normwise.recalibration.adaptation_report import AdaptReport
    from normwise.recalibration.report import RecalibrateReport


def _estimators() -> Collection[str]:
    from normwise import estimators

    return estimators.names()


def _upstreams() -> Collection[str]:
    from normwise.recalibration.one_pass import UPSTREAM

    return UPSTREAM


_PLACES = (
    click.argument("model", type=Place(lambda place: check_place(place, "MODEL"))),
    click.option(
        "--data",
        required=True,
        type=Place(lambda place: check_place(place, "DATA")),
        metavar="DATA",
        help="The data: FILE.py:FUNCTION that returns batches (a DataLoader, a list), or an .npz file with arrays.",
    ),
    click.option(
        "--out",
        required=True,
        type=File(),
        help="Write the weights to this .safetensors, .pt or .pth file; for a Keras model, the model to this .keras "
        "file.",
    ),
    click.option(
        "--weights",
        type=File(),
        metavar="FILE[:KEY]",
        help="Weights to load into a PyTorch model first: a .safetensors, .pt, .pth, .ckpt, .bin or .tar file, with a "
        "KEY where it holds several, for example last.ckpt:ema. Default: those that MODEL comes with",
    ),
)
_DATA = (
    click.option(
        "--upstream",
        type=Name("upstream", _upstreams),
        default="inference",
        show_default=True,
        help="While collecting, earlier layers use: inference (running statistics) or batch.",
    ),
    click.option("--batches", type=Whole(1), help="Batches to use, at most. Default: all"),
    click.option(
        "--batch-size", type=Whole(1), default=64, show_default=True, help="Rows per batch when --data is an .npz."
    ),
    click.option(
        "--scale",
        type=Factor(),
        help="Multiply the values of an .npz by this, for example 1/255 for pixels. Default: take them as they are",
    ),
    click.option("--device", metavar="NAME", help="Device, e.g. cuda. Default: where the model already is"),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
)


def _with(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """The options above a command, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command(cls=Command, epilog="Example: normwise recalibrate nets.py:net --data data.npz --out new.pt")
@_with(_PLACES)
@click.option(
    "--estimator",
    type=Name("estimator", _estimators),
    default="pooled",
    show_default=True,
    help="How batches become statistics: cumulative, debiased_ema, ema or pooled.",
)
@click.option(
    "--tolerance",
    type=Number("a standard error of 0 or more, in standard deviations, for example 0.01"),
    help="Stop when the statistics are known up to this standard error, in standard deviations; needs shuffled data. "
    "Default: use all data",
)
@_with(_DATA)
def recalibrate(model: str, batches: int | None, estimator: str, tolerance: float | None, **given: Any) -> None:
    """Set the statistics of a model's batch norms to those of data.

    MODEL is FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION that returns a torch.nn.Module, or a .keras file. A failure
    writes nothing.
    """
    from normwise.recalibration.one_pass import limit_of

    _check_settings(estimator)
    allowed(lambda: limit_of(tolerance, estimator, shuffled=False))

    def work(network: Any, source: Any, **more: Any) -> RecalibrateReport:
        import normwise

        settings = {"at_most": batches, "estimator": estimator, "tolerance": tolerance, **more}
        with _said_by_the_command():
            return normwise.recalibrate(network, source, **settings)

    _write(Task(model, work, lambda found: bool(found.recalibrated), **given))


def _check_settings(estimator: str) -> None:
    """Refuse an estimator with settings that no option is for."""
    from normwise import estimators

    settings = {each.name for each in fields(estimators.estimator_class(estimator))} - {"weight_of_new"}  # type: ignore[arg-type]  # every estimator is a dataclass
    if settings:
        raise click.UsageError(
            f"estimator {estimator!r} has settings ({', '.join(sorted(settings))}) that no option is for: choose "
            "another, or call normwise.recalibrate from Python."
        )


@click.command(cls=Command, epilog="Example: normwise adapt nets.py:net --data shifted.npz --out adapted.pt")
@_with(_PLACES)
@click.option(
    "--prior",
    type=Number("a number of samples, 0 or more", infinite=True),
    metavar="N",
    help="Weight of the current statistics, in samples. Default: 4",
)
@_with(_DATA)
def adapt(model: str, batches: int | None, prior: float | None, **given: Any) -> None:
    """Move a model's statistics towards those of shifted data.

    MODEL is FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION that returns a torch.nn.Module, or a .keras file. A failure
    writes nothing.
    """

    def work(network: Any, source: Any, **more: Any) -> AdaptReport:
        import normwise

        settings: dict[str, Any] = {} if prior is None else {"prior": prior}
        with _said_by_the_command():
            return normwise.adapt(network, source, at_most=batches, **settings, **more)

    _write(Task(model, work, lambda found: bool(found.adapted), **given))


@dataclass(frozen=True)
class Task:
    """What is to be done with which model and data, as the command line says it."""

    model: str
    work: Callable[..., Any]
    changed: Callable[[Any], bool]
    data: str
    out: Path
    weights: Path | None
    upstream: str
    batch_size: int
    scale: float | None
    device: str | None
    as_json: bool


def _write(task: Task) -> None:
    """Load, work, save, and say what was done; what the user's own code prints goes to standard error."""
    with redirect_stdout(sys.stderr):
        found, kind = _of_keras(task) if task.model.endswith(".keras") else _of_torch(task)
    if task.as_json:
        streams.print_json(found.to_json())
    else:
        click.echo(f"{found}\n{kind}: {task.out.resolve()}")


def _of_torch(task: Task) -> tuple[Any, str]:
    """The report, and what was written; what can be wrong without PyTorch, before that is imported."""
    if not task.data.endswith(".npz") and _given("batch_size"):
        raise click.UsageError(f"--batch-size is for an .npz, and {task.data} makes its own batches: leave it out.")
    _check_scale(task)
    allowed(lambda: check_suffix(task.out, WEIGHTS, "weights are"))
    if task.weights is not None:
        weights, _ = split_key(task.weights)
        allowed(lambda: check_suffix(weights, READABLE, "weights are"))
        check_file(weights, "the weights")
    check_source(task.model)
    _check_data(task)
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    from normwise.torch.models import loading

    if (device := task.device) is not None:
        allowed(lambda: loading.check_device_name(device))
        loading.check_device(device)
    network = loading.load_model(task.model, task.weights, tell=_tell)
    if task.device is not None:
        attempt(lambda: network.to(task.device), f"moving {task.model} to --device {task.device}")
    source = loading.load_batches(task.data, network, task.batch_size, scale=task.scale, tell=_tell)
    found = attempt(lambda: task.work(network, source, upstream=task.upstream), f"{task.model} on {task.data}")
    _refuse_unchanged(task, found)
    if task.device is not None:
        network.cpu()  # a file for any machine
    loading.save_weights(network, task.out)
    return found, "The weights"


def _of_keras(task: Task) -> tuple[Any, str]:
    """The same for a model of Keras's, on the backend that KERAS_BACKEND names."""
    for option, given in (("--weights", task.weights), ("--device", task.device)):
        if given is not None:
            raise click.UsageError(
                f"{option} is for PyTorch models, received {str(given)!r} with {task.model}: leave it out."
            )
    _check_scale(task)
    allowed(lambda: check_suffix(task.out, (".keras",), "a Keras model is"))
    from normwise.archives import check_keras

    check_keras(Path(task.model))
    _check_data(task)
    keras_backend.check()
    with keras_backend.quiet():
        loading = attempt(lambda: import_module("normwise.keras.models.loading"), "importing Keras")
    network = loading.load_model(task.model)
    source = loading.load_batches(task.data, network, scale=task.scale, tell=_tell)
    found = attempt(
        lambda: task.work(network, source, upstream=task.upstream, batch_size=task.batch_size),
        f"{task.model} on {task.data}",
    )
    _refuse_unchanged(task, found)
    with keras_backend.quiet():
        loading.save_model(network, task.out)
    return found, "The model"


def _check_scale(task: Task) -> None:
    if task.scale is not None and not task.data.endswith(".npz"):
        raise click.UsageError(f"--scale is for an .npz, and {task.data} makes its own batches: leave it out.")


def _tell(sentence: str) -> None:
    """Say what was done to a file that did not fit as it stood."""
    streams.complain(f"normwise: {sentence}")


def _check_data(task: Task) -> None:
    """Refuse data that are not there, and a place where nothing can be written."""
    check_data(task.data)
    check_target(task.out)


def _given(name: str) -> bool:
    """Whether the user gave an option, or its default holds."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def _refuse_unchanged(task: Task, found: Any) -> None:
    if not task.changed(found):
        raise click.ClickException(f"{task.model}: {found.in_a_sentence()}; nothing was written.")


@contextmanager
def _said_by_the_command() -> Iterator[None]:
    """That nothing changed is an error of a command, and no warning too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)
        yield
