"""`normwise recalibrate` and `normwise adapt`: new statistics for a model's batch norms, from data, in a file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from normwise.commands import keras_backend, streams
from normwise.commands.inputs import BATCHES, DATA, MODEL, WEIGHTS, Inputs, options
from normwise.commands.program import Command
from normwise.commands.values import File, Name, Number, allowed
from normwise.errors import NothingChanged
from normwise.loading import WEIGHTS as SUFFIXES
from normwise.loading import attempt, check_suffix, check_target

if TYPE_CHECKING:
    from normwise.recalibration.adaptation_report import AdaptReport
    from normwise.recalibration.report import RecalibrateReport


def _estimators() -> Collection[str]:
    from normwise import estimators

    return estimators.names()


def _upstreams() -> Collection[str]:
    from normwise.recalibration.one_pass import UPSTREAM

    return UPSTREAM


_OUT = click.option(
    "--out",
    required=True,
    type=File(),
    help="Write the weights to this .safetensors, .pt or .pth file; for a Keras model, the model to this .keras file.",
)
_UPSTREAM = click.option(
    "--upstream",
    type=Name("upstream", _upstreams),
    default="inference",
    show_default=True,
    help="While collecting, earlier layers use: inference (running statistics) or batch.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
_PLACES = options(MODEL, DATA, _OUT, WEIGHTS)
_DATA = options(_UPSTREAM, *BATCHES, _JSON)


@click.command(cls=Command, epilog="Example: normwise recalibrate nets.py:net --data data.npz --out new.pt")
@_PLACES
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
@_DATA
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

    _write(_task(work, lambda found: bool(found.recalibrated), model=model, **given))


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
@_PLACES
@click.option(
    "--prior",
    type=Number("a number of samples, 0 or more", infinite=True),
    metavar="N",
    help="Weight of the current statistics, in samples. Default: 4",
)
@_DATA
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

    _write(_task(work, lambda found: bool(found.adapted), model=model, **given))


class Task(NamedTuple):
    """What is to be done with a model and data, and where the result goes."""

    inputs: Inputs
    work: Callable[..., Any]
    changed: Callable[[Any], bool]
    out: Path
    upstream: str
    as_json: bool


def _task(
    work: Callable[..., Any],
    changed: Callable[[Any], bool],
    *,
    out: Path,
    upstream: str,
    as_json: bool,
    **inputs: Any,
) -> Task:
    return Task(Inputs(**inputs), work, changed, out, upstream, as_json)


def _write(task: Task) -> None:
    """Load, work, save, and say what was done; what the user's own code prints goes to standard error."""
    with redirect_stdout(sys.stderr):
        found, kind = (_of_keras if task.inputs.of_keras else _of_torch)(task)
    if task.as_json:
        streams.print_json(found.to_json())
    else:
        click.echo(f"{found}\n{kind}: {task.out.resolve()}")


def _of_torch(task: Task) -> tuple[Any, str]:
    """The report, and what was written."""
    allowed(lambda: check_suffix(task.out, SUFFIXES, "weights are"))
    check_target(task.out)
    network, source, _ = task.inputs.load()
    found = _worked(task, network, source)
    if task.inputs.device is not None:
        network.cpu()  # a file for any machine
    from normwise.torch.models import loading

    loading.save_weights(network, task.out)
    return found, "The weights"


def _of_keras(task: Task) -> tuple[Any, str]:
    """The same for a model of Keras's."""
    allowed(lambda: check_suffix(task.out, (".keras",), "a Keras model is"))
    check_target(task.out)
    network, source, _ = task.inputs.load()
    found = _worked(task, network, source, batch_size=task.inputs.batch_size)
    from normwise.keras.models import loading

    with keras_backend.quiet():
        loading.save_model(network, task.out)
    return found, "The model"


def _worked(task: Task, network: Any, source: Any, **more: Any) -> Any:
    """The report of work that changed something."""
    model, data = task.inputs.model, task.inputs.data
    found = attempt(lambda: task.work(network, source, upstream=task.upstream, **more), f"{model} on {data}")
    if not task.changed(found):
        raise click.ClickException(f"{model}: {found.in_a_sentence()}; nothing was written.")
    return found


@contextmanager
def _said_by_the_command() -> Iterator[None]:
    """That nothing changed is an error of a command, and no warning too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)
        yield
