"""`normwise recalibrate` and `normwise adapt`: new statistics for a model's batch norms, from data, in a file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from normwise.commands.inputs import BATCHES, DATA, MODEL, WEIGHTS, options
from normwise.commands.program import Command
from normwise.commands.values import Name, Number, allowed
from normwise.commands.writing import JSON, OUT, task, write

if TYPE_CHECKING:
    from normwise.recalibration.adaptation_report import AdaptReport
    from normwise.recalibration.report import RecalibrateReport


def _estimators() -> Collection[str]:
    from normwise import estimators

    return estimators.names()


def _upstreams() -> Collection[str]:
    from normwise.recalibration.one_pass import UPSTREAM

    return UPSTREAM


_UPSTREAM = click.option(
    "--upstream",
    type=Name("upstream", _upstreams),
    default="inference",
    show_default=True,
    help="While collecting, earlier layers use: inference (running statistics) or batch.",
)
_PLACES = options(MODEL, DATA, OUT, WEIGHTS)
_DATA = options(_UPSTREAM, *BATCHES, JSON)


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
def recalibrate(
    model: str, batches: int | None, estimator: str, tolerance: float | None, upstream: str, **given: Any
) -> None:
    """Set the statistics of a model's batch norms to those of data.

    MODEL is FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION that returns a torch.nn.Module, or a .keras file. A failure
    writes nothing.
    """
    from normwise.recalibration.one_pass import limit_of

    _check_settings(estimator)
    allowed(lambda: limit_of(tolerance, estimator, shuffled=False))

    def work(network: Any, source: Any, **more: Any) -> RecalibrateReport:
        import normwise

        settings = {"at_most": batches, "estimator": estimator, "tolerance": tolerance, "upstream": upstream, **more}
        return normwise.recalibrate(network, source, **settings)

    write(task(work, lambda found: bool(found.recalibrated), model=model, **given))


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
def adapt(model: str, batches: int | None, prior: float | None, upstream: str, **given: Any) -> None:
    """Move a model's statistics towards those of shifted data.

    MODEL is FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION that returns a torch.nn.Module, or a .keras file. A failure
    writes nothing.
    """

    def work(network: Any, source: Any, **more: Any) -> AdaptReport:
        import normwise

        settings: dict[str, Any] = {"upstream": upstream} if prior is None else {"upstream": upstream, "prior": prior}
        return normwise.adapt(network, source, at_most=batches, **settings, **more)

    write(task(work, lambda found: bool(found.adapted), model=model, **given))
