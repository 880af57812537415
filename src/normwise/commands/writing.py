"""The steps of each command that changes a model: do the work, write the result whole, and print the report."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import click

from normwise.commands import keras_backend, streams
from normwise.commands.inputs import Inputs
from normwise.commands.values import File, allowed
from normwise.errors import NothingChanged
from normwise.loading import WEIGHTS, attempt, check_suffix, check_target, split_key

OUT = click.option(
    "--out",
    required=True,
    type=File(),
    help="File to write: for a PyTorch model its weights, to a .safetensors, .pt or .pth file; for a Keras model the "
    "whole model, to a .keras file.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of text.")


class Task(NamedTuple):
    """The work to do with a model and data, and the place of the result.

    Args:
        inputs: the model and the data.
        work: given the two, does it and returns the report; with ``forward_fn`` where that is given and, for Keras,
            with ``batch_size`` where there are data.
        changed: whether a report is of work that changed something.
        out: the file to be written.
        as_json: whether the report is printed as JSON.
        fits: given an expression of the model as it was, the line of Python that makes what is written fit; None where
            the work changes no layers.
    """

    inputs: Inputs
    work: Callable[..., Any]
    changed: Callable[[Any], bool]
    out: Path
    as_json: bool
    fits: Callable[[str], str] | None


def task(
    work: Callable[..., Any],
    changed: Callable[[Any], bool],
    *,
    out: Path,
    as_json: bool,
    fits: Callable[[str], str] | None = None,
    **inputs: Any,
) -> Task:
    """A task, from what was typed."""
    return Task(Inputs(**inputs), work, changed, out, as_json, fits)


def write(task: Task) -> None:
    """Load, work, save, and say what was done; what the user's own code prints goes to standard error."""
    with redirect_stdout(sys.stderr):
        found, last = (_of_keras if task.inputs.of_keras else _of_torch)(task)
    if task.as_json:
        streams.print_json(found.to_json())
    else:
        click.echo(f"{found}\n{last}")


def _of_torch(task: Task) -> tuple[Any, str]:
    """The report, and what was written."""
    allowed(lambda: check_suffix(task.out, WEIGHTS, "a file of weights"))
    check_target(task.out)
    network, source, _ = task.inputs.load()
    _keep_checkpoint(task)
    keys = [*network.state_dict()]
    found = _worked(task, network, source)
    network = getattr(found, "model", None) or network
    if task.inputs.device is not None:
        network.cpu()  # a file for any machine
    from normwise.torch.models import loading

    loading.save_weights(network, task.out)
    words = f"The weights: {task.out.resolve()}"
    if task.fits is not None and [*network.state_dict()] != keys:
        words += f"\nTo load them, build the model with {task.fits(task.inputs.model.rpartition(':')[2] + '()')}."
    return found, words


def _keep_checkpoint(task: Task) -> None:
    """Refuse to replace the file that the weights come from, if it holds more: an optimizer, other weights."""
    if task.inputs.weights is None:
        return
    from normwise.torch.models.checkpoints import holds_more

    weights, _ = split_key(task.inputs.weights)
    if weights.resolve() == task.out.resolve() and holds_more(weights):
        raise click.UsageError(
            f"--out {str(task.out)!r} is the file that --weights reads, and what else it holds would be lost: name "
            "another file with --out."
        )


def _of_keras(task: Task) -> tuple[Any, str]:
    """The same for a Keras model."""
    allowed(lambda: check_suffix(task.out, (".keras",), "a file of a Keras model"))
    check_target(task.out)
    network, source, _ = task.inputs.load()
    more = {} if source is None else {"batch_size": task.inputs.batch_size}
    from normwise.keras.models import loading

    needed_us = loading.needs_normwise(network)
    hidden = None if task.fits is None else loading.not_in_a_file(network)
    found = _worked(task, network, source, **more)
    model = getattr(found, "model", None)
    model = network if model is None else model
    if task.fits is not None and hidden is not None:
        loading.check_held(model, hidden, task.inputs.model, task.fits("model"))
    with keras_backend.quiet():
        loading.save_model(model, task.out)
    words = f"The model: {task.out.resolve()}"
    if loading.needs_normwise(model) and not needed_us:
        words += "\nTo load it, write `import normwise.keras` before keras.saving.load_model."
    return found, words


def _worked(task: Task, network: Any, source: Any, **more: Any) -> Any:
    """The report of work that changed something."""
    model, data = task.inputs.model, task.inputs.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)  # which is an error of a command, and no warning too
        work = partial(task.work, network, source, **more, **task.inputs.forwarding())
        feeding = import_module(f"normwise.{'keras' if task.inputs.of_keras else 'torch'}.models.feeding")
        place = model if data is None else f"{model} on {data}"
        found = attempt(work, place, partial(feeding.layer_of, network))
    if not task.changed(found):
        raise click.ClickException(f"{model}: {_clause(found)}; nothing was written.")
    return found


def _clause(report: Any) -> str:
    """The report on one line."""
    if hasattr(report, "in_a_sentence"):
        return str(report.in_a_sentence())
    from normwise.recalibration.report import clause

    left = report.not_reached if isinstance(report.not_reached, Mapping) else {}
    return clause(str(report), {**report.skipped, **left}, ())
