"""`normwise doctor` and `normwise explain`: what normalization does wrong in a model, and a check's page."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from normwise.commands import streams
from normwise.commands.functions import Function, named_function
from normwise.commands.inputs import BATCHES, DATA, MODEL, PARTS, Inputs, options
from normwise.commands.program import WRONG, Command
from normwise.commands.values import File, Name, Place, allowed
from normwise.errors import CallFailed, NormwiseError
from normwise.loading import FORWARD, attempt, check_place, check_source, check_suffix, check_target

if TYPE_CHECKING:
    from normwise.doctor.diagnosis import Diagnosis


def _checks() -> list[str]:
    from normwise.doctor.check import names

    return names()


class Verdict(Command):
    """A command whose exit code 1 is its answer; whatever kept it from one is 2."""

    failed = WRONG


class Explanation(Command):
    """A command whose help lists all checks."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help, and the names that CHECK may have, which are looked up only now."""
        super().format_help_text(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"CHECK is one of {', '.join(_checks())}.")


class CheckName(Name):
    """The name of a check; for a word that is none, the sentence names the checks that are about it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name."""
        try:
            return super().convert(value, param, ctx)
        except click.UsageError as error:
            about = _about(str(value))
            if not about:
                raise
            words = f"{error.message.rstrip('.')}; {str(value)!r} stands in the text of {', '.join(about)}."
            raise click.UsageError(words) from None


def _about(words: str) -> list[str]:
    """The checks whose text has these words, at most three; first those that name them in their first line."""
    from normwise.doctor.check import load

    pattern = re.compile(rf"(?<!\w){re.escape(words.strip())}(?!\w)", re.IGNORECASE)
    texts = {name: str(load(name).__doc__) for name in _checks()}
    found = [name for name, text in texts.items() if words.strip() and pattern.search(text)]
    return sorted(found, key=lambda name: not pattern.search(texts[name].partition("\n")[0]))[:3]


CHECK = CheckName("check", _checks, all_of_them="`normwise explain --help`")


@click.command(cls=Verdict, epilog="Example: normwise doctor nets.py:net --data data.npz --weights net.pt")
@options(MODEL, DATA, PARTS)
@click.option(
    "--source",
    type=Place(lambda place: check_place(place, "MODEL")),
    metavar="MODEL",
    help="The model that MODEL was made from, by folding, averaging or converting; the doctor compares the two. "
    "Default: no comparison",
)
@click.option(
    "--loss",
    type=Function("--loss"),
    help="Function of the outputs and targets of a batch that returns its loss, for example nets.py:loss or "
    "torch.nn.functional:cross_entropy; the doctor then says what a fault costs. Not with an .npz file, which has no "
    "targets. Default: no loss",
)
@click.option(
    "--metric",
    type=Function("--metric"),
    help="The same for a metric, for example an accuracy; not with an .npz file. Default: no metric",
)
@click.option(
    "--train-step",
    type=Function("--train-step"),
    help="Function of the model and a batch that does one step of training with an optimizer of its own; the doctor "
    "then runs three steps on a copy and watches the statistics. Not with an .npz file. Default: no steps",
)
@click.option("--html", type=File(), help="File to write the diagnosis to as a page, ending in .html. Default: no page")
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON instead of text.")
@click.option(
    "--only",
    multiple=True,
    type=CHECK,
    metavar="CHECK",
    help="Run this check only; give the option several times for several checks. Default: all checks",
)
@click.option(
    "--allow",
    multiple=True,
    type=CHECK,
    metavar="CHECK",
    help="Leave this check out; give the option several times for several checks. Default: none",
)
@options(*BATCHES)
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    source: str | None,
    loss: str | None,
    metric: str | None,
    train_step: str | None,
    html: Path | None,
    as_json: bool,
    only: tuple[str, ...],
    allow: tuple[str, ...],
    batches: int | None,
    **inputs: Any,
) -> None:
    """Find what normalization does wrong in a model.

    For each fault, the command prints the layer, the numbers that prove the fault, and a remedy. It does not change
    the model.

    MODEL says where the model is: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, a function without arguments that
    returns a torch.nn.Module; or the path of a .keras file.

    A finding is an error (results are wrong), a warning (results are at risk) or a note. The exit code is 1 if there is
    an error, 0 if there is none, and 2 if the model could not be examined.
    """
    given = Inputs(**inputs)
    if only and {*only} <= {*allow}:
        raise click.UsageError("--allow leaves out every check that --only names: leave out one of the two options.")
    if html is not None:
        allowed(lambda: check_suffix(html, (".html", ".htm"), "a page"))
        check_target(html)
    functions = {"loss": loss, "metric": metric, "train_step": train_step}.items()
    named = {name: place for name, place in functions if place is not None}
    for name in named:
        if str(given.data).endswith(".npz"):
            raise click.UsageError(
                f"{_option(name)} needs targets, and an .npz file holds inputs only: give --data FILE.py:FUNCTION, "
                "whose batches are (inputs, targets)."
            )
    for place in named.values():
        check_source(place)
    with redirect_stdout(sys.stderr):  # what the user's own code prints
        network, data, origin = given.load([] if source is None else [source])
        if given.of_keras:
            from normwise.keras.models.feeding import batches_of

            data = batches_of(data, given.batch_size, at_most=batches, called="doctor")
        told = {name: named_function(place, _option(name)) for name, place in named.items()}
        from normwise.doctor import received
        from normwise.doctor.examination import examine

        def work() -> Any:
            before = origin[0] if origin else None
            try:
                return examine(
                    network,
                    data,
                    source_model=before,
                    only=only or None,
                    allow=allow,
                    at_most=batches,
                    **told,
                    **given.forwarding(),
                )
            except CallFailed as error:
                words = str(error).replace(received.FORWARD, FORWARD)
                raise NormwiseError(f"{given.model} on {given.data}: {words}") from error

        diagnosis = _as_options(attempt(work, f"{given.model} on {given.data}"))
    if diagnosis.idle:
        reasons = "; ".join(f"{each.check}, because {each.reason}" for each in diagnosis.skipped)
        raise NormwiseError(f"no check could be carried out: {reasons}.")
    if html is not None:
        from normwise.report import diagnosis_page

        diagnosis_page.write(diagnosis, html, title=given.model)
    try:
        if as_json:
            streams.print_json(diagnosis.to_json())
        else:
            _print(diagnosis)
            if html is not None:
                click.echo(f"The page: {html.resolve()}")
    except BrokenPipeError:  # whoever reads has seen enough, and the exit code is an answer too
        streams.discard(sys.stdout)
    ctx.exit(1 if diagnosis.sick else 0)


def _option(name: str) -> str:
    """The option of a keyword of ``examine``."""
    return f"--{name.replace('_', '-')}"


def _as_options(diagnosis: Diagnosis) -> Diagnosis:
    """The same with the reasons of skipped checks in words of the command line: what to give, or where."""
    words = {
        "no source_model was given": "no --source was given",
        "no loss was given": "no --loss was given",
        "no train_step was given": "no --train-step was given",
    }
    skipped = tuple(replace(each, reason=words.get(each.reason, each.reason)) for each in diagnosis.skipped)
    missing = {what: words.get(why, why) for what, why in diagnosis.facts.missing.items()}
    return replace(diagnosis, skipped=skipped, facts=replace(diagnosis.facts, missing=missing))


def _print(diagnosis: Diagnosis) -> None:
    from rich.console import Console

    from normwise.report import diagnosis_text

    console = Console(highlight=False)
    with console.capture() as captured:  # printed by click: rich would end the program where a pipe is closed
        diagnosis_text.show(diagnosis, console)
    click.echo(captured.get(), nl=False, color=console.is_terminal and not console.no_color)


@click.command(cls=Explanation, epilog="Example: normwise explain stale_running_statistics")
@click.argument("check", type=CHECK)
def explain(check: str) -> None:
    """Explain a check of the doctor: what it finds and what to do.

    The text also says why the fault is bad, how the doctor measures it, and with which limits.
    """
    from normwise.doctor.check import MEASURED, left, load, remedy

    found = load(check)
    limits = "\n".join(
        f"    {name}: {value:g} {unit}; {origin}" for name, (value, unit, origin) in found.LIMITS.items()
    )
    page = str(found.__doc__).strip().replace("``", "`")
    lines = "\n".join(f"    {line}" for line in [*remedy(check).splitlines(), *filter(None, [left(check)])])
    click.echo(f"{check}\n\n{page}\n\nLimits:\n{limits}\n    ({MEASURED})\n\nRemedy, for layer 'bn':\n{lines}")
