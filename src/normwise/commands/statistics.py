"""`normwise recalibrate` and `normwise adapt`: new statistics for a model's batch norms, from data, in a file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from normwise.commands.inputs import BATCHES, DATA, MODEL, PARTS, options
from normwise.commands.program import Command
from normwise.commands.values import Name, Number, allowed
from normwise.commands.writing import JSON, OUT, task, write

if TYPE_CHECKING:
    from normwise.recalibration.adaptation_report import AdaptReport
    from normwise.recalibration.report import RecalibrateReport


def _estimators() -> Collection[str]:
    from normwise import estimators

    return [name for name in estimators.names() if not _settings(name)]


class EstimatorName(Name):
    """The name of an estimator; those that the command line cannot set are known, and refused with their reason."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name."""
        from normwise import estimators

        return str(value) if value in estimators.names() else super().convert(value, param, ctx)


def _upstreams() -> Collection[str]:
    from normwise.recalibration.one_pass import UPSTREAM

    return UPSTREAM


_UPSTREAM = click.option(
    "--upstream",
    type=Name("upstream", _upstreams),
    default="inference",
    show_default=True,
    help="Statistics by which earlier layers normalize while those of a later layer are collected: inference (their "
    "running statistics) or batch (those of each batch).",
)
_PLACES = options(MODEL, DATA, OUT, PARTS)
_DATA = options(_UPSTREAM, *BATCHES, JSON)


@click.command(cls=Command, epilog="Example: normwise recalibrate nets.py:net --data data.npz --out new.pt")
@_PLACES
@click.option(
    "--estimator",
    type=EstimatorName("estimator", _estimators),
    default="pooled",
    show_default=True,
    help="Rule by which the statistics of the batches are combined: pooled (each sample has the same weight), "
    "cumulative (each batch has), ema or debiased_ema (later batches have more).",
)
@click.option(
    "--tolerance",
    type=Number("a standard error of 0 or more, in standard deviations, for example 0.01"),
    help="Stop early, when the standard error of the statistics is below this many standard deviations, for example "
    "0.01; the data must be shuffled. Default: use all data",
)
@_DATA
def recalibrate(
    model: str, batches: int | None, estimator: str, tolerance: float | None, upstream: str, **given: Any
) -> None:
    """Set a model's running statistics to those of your data.

    Use the command after weights were averaged, or if a model is far worse in eval mode than in training mode. It
    writes the model with the new statistics to --out; if it fails, it writes nothing.

    MODEL says where the model is: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, a function without arguments that
    returns a torch.nn.Module; or the path of a .keras file.
    """
    from normwise.recalibration.one_pass import limit_of

    _check_settings(estimator)
    allowed(lambda: limit_of(tolerance, estimator, shuffled=False))

    def work(network: Any, source: Any, **more: Any) -> RecalibrateReport:
        import normwise

        settings = {"at_most": batches, "estimator": estimator, "tolerance": tolerance, "upstream": upstream, **more}
        return normwise.recalibrate(network, source, **settings)

    write(task(work, lambda found: bool(found.recalibrated), model=model, **given))


def _settings(estimator: str) -> set[str]:
    """The settings of an estimator that no option is for."""
    from normwise import estimators

    return {each.name for each in fields(estimators.estimator_class(estimator))} - {"weight_of_new"}  # type: ignore[arg-type]  # every estimator is a dataclass


def _check_settings(estimator: str) -> None:
    """Refuse an estimator with settings that no option is for."""
    if settings := _settings(estimator):
        raise click.UsageError(
            f"estimator {estimator!r} needs settings ({', '.join(sorted(settings))}) that the command line does not "
            "have: choose another estimator, or call normwise.recalibrate in Python."
        )


@click.command(cls=Command, epilog="Example: normwise adapt nets.py:net --data shifted.npz --out adapted.pt")
@_PLACES
@click.option(
    "--prior",
    type=Number("a number of samples, 0 or more", infinite=True),
    metavar="N",
    help="Number of samples that the model's present statistics count for. Default: 4",
)
@_DATA
def adapt(model: str, batches: int | None, prior: float | None, upstream: str, **given: Any) -> None:
    """Move a model's running statistics towards shifted data.

    Use the command if the data that the model meets now are unlike its training data, for example darker, and you
    have a few of them, without labels. It writes the model with the new statistics to --out; if it fails, it writes
    nothing.

    MODEL says where the model is: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, a function without arguments that
    returns a torch.nn.Module; or the path of a .keras file.
    """

    def work(network: Any, source: Any, **more: Any) -> AdaptReport:
        import normwise

        settings: dict[str, Any] = {"upstream": upstream} if prior is None else {"upstream": upstream, "prior": prior}
        return normwise.adapt(network, source, at_most=batches, **settings, **more)

    write(task(work, lambda found: bool(found.adapted), model=model, **given))
