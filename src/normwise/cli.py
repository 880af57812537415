"""The command line: parse, call, print. What takes time to import is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from normwise import __version__
from normwise.errors import MissingExtra, NormwiseError, UnknownName
from normwise.frameworks import installed_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normwise.lab.results import Result

COULD_NOT = 2  # 1 is reserved for findings of severity error
INTERRUPTED = 130
_LIBRARIES = ("torch", "keras", "jax", "tensorflow", "numpy")


class Group(click.Group):
    """A group of commands that suggests the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name.

        Raises:
            UnknownName: there is none.
        """
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UnknownName("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class Program(Group):
    """The whole command line, and the one place where an error becomes a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has seen enough, such as ``head``, is no error."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        return done

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command and end the process: 0 all right, 2 it could not be carried out, 130 interrupted."""
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except click.NoSuchOption as error:
            command = error.ctx.command if error.ctx else self
            known = [name for each in command.params for name in each.opts if name.startswith("--")]
            _fail(str(UnknownName("option", error.option_name, [*known, "--help"])))
        except click.ClickException as error:
            _fail(error.format_message())
        except (click.Abort, KeyboardInterrupt):
            click.echo("normwise: interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except NormwiseError as error:
            _fail(str(error))
        except OSError as error:
            place = f"{str(error.filename)!r}: " if error.filename else ""
            _fail(f"{place}{error.strerror or error}.")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str) -> NoReturn:
    first = sentence[:1] if sentence[1:2].isupper() else sentence[:1].lower()  # MODEL is a name
    click.echo(f"normwise: {first}{sentence[1:]}", err=True)
    sys.exit(COULD_NOT)


def _help_alone(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.group(cls=Program, invoke_without_command=True, epilog="Example: normwise lab run")
@click.version_option(__version__, prog_name="normwise", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Batch normalization: layers, statistics, and a lab that measures what is claimed about it."""
    _help_alone(ctx)


@main.command(epilog="Example: normwise info --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--why", "shape", metavar="SHAPE", help="Say which kernel serves a tensor, for example 32x64x56x56.")
@click.option("--dtype", default="float32", show_default=True, help="Of that tensor.")
@click.option("--channels-last", is_flag=True, help="That tensor has its channels last in memory.")
@click.option("--inference", is_flag=True, help="It is normalized by given statistics.")
@click.option("--mask", is_flag=True, help="Some of it is masked.")
def info(as_json: bool, shape: str | None, **how: Any) -> None:
    """Show versions, the machine, and which kernels are active."""
    if shape is not None:
        choice = _choice(shape, **how)
        click.echo(json.dumps(choice) if as_json else f"{choice['kernel']}: {choice['reason']}.")
        return
    from normwise.lab import stamp

    facts: dict[str, Any] = {
        "normwise": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": stamp.cpu(),
        "cores": os.cpu_count(),
        "libraries": {name: installed_version(name) for name in _LIBRARIES},
        "kernels": _kernels(),
        "compiled": _compiled(),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name in ("normwise", "python", "system", "cpu", "cores"):
        click.echo(f"{name:<12} {facts[name]}")
    for name, found in facts["libraries"].items():
        click.echo(f"{name:<12} {found or 'not installed'}")
    click.echo("\nKernels")
    for kernel in facts["kernels"]:
        click.echo(f"  {kernel['name']:<12} {'active' if kernel['active'] else 'not active'}: {kernel['reason']}")
    if facts["compiled"]:
        pool = facts["compiled"]["pool"]
        click.echo(f"\nInstruction set of the compiled kernels: {facts['compiled']['instruction_set']}")
        click.echo(
            f"Memory pool for their large outputs: at most {pool['limit'] >> 20} MB kept, "
            f"{pool['kept'] >> 20} MB kept now (NORMWISE_POOL_MB sets the limit; 0 switches it off)"
        )


def _kernels() -> list[dict[str, Any]]:
    from normwise.kernels import choose

    return [{"name": each.name, "active": each.available, "reason": each.reason} for each in choose.implementations()]


def _compiled() -> dict[str, Any] | None:
    from normwise.kernels import choose

    if not choose.built():
        return None
    from normwise.kernels import cpu

    return {"instruction_set": cpu.instruction_set(), "pool": cpu.pool()}


def _choice(shape: str, *, dtype: str, channels_last: bool, inference: bool, mask: bool) -> dict[str, str]:
    """The kernel for a tensor that is described in words."""
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    import torch

    from normwise.kernels import choose

    sizes = shape.lower().split("x")
    if len(sizes) < 2 or not all(size.isdigit() for size in sizes):
        raise click.UsageError(f"a shape is written NxC or NxCxHxW, received {shape!r}: for example 32x64x56x56.")
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    known = {str(each).removeprefix("torch."): each for each in dtypes}
    if dtype not in known:
        raise UnknownName("dtype", dtype, known)
    numbers = [int(size) for size in sizes]
    x = torch.empty([numbers[0], *numbers[2:], numbers[1]], dtype=known[dtype]).movedim(-1, 1)
    x = x if channels_last else torch.empty(numbers, dtype=known[dtype])
    found = choose.choose(x, by_batch=not inference, masked=mask)
    return {"kernel": found.name, "reason": found.reason}


@main.command(epilog="Example: normwise recalibrate nets.py:net --data data.npz --out new.pt")
@click.argument("model")
@click.option("--data", required=True, help="FILE.py:CALLABLE that returns an iterable of batches, or an .npz.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Write the weights here.")
@click.option("--weights", type=click.Path(path_type=Path), help="Read the model's weights: .safetensors or .pt.")
@click.option("--estimator", default="pooled", show_default=True, help="How batches become statistics.")
@click.option("--upstream", default="inference", show_default=True, help="Layers below normalize so, or by batch.")
@click.option("--batches", type=int, metavar="N", help="Use so many batches.")
@click.option("--tolerance", type=float, metavar="X", help="Stop at this standard error, in standard deviations.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Rows of an .npz.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recalibrate(
    model: str,
    data: str,
    out: Path,
    weights: Path | None,
    batches: int | None,
    batch_size: int,
    as_json: bool,
    **how: Any,
) -> None:
    """Set the statistics of a model's batch norms to those of data.

    MODEL is FILE.py:CALLABLE or PACKAGE.MODULE:CALLABLE that returns a torch.nn.Module. A failure writes nothing.
    """
    if installed_version("torch") is None:
        raise MissingExtra("torch", extra="torch")
    from normwise import surgery
    from normwise.torch import loading

    loading.check_weights_name(out)
    network = loading.load_model(model, weights)
    source = loading.load_batches(data, network, batch_size)
    found = loading.attempt(lambda: surgery.recalibrate(network, source, at_most=batches, **how), f"{model} on {data}")
    if not found.recalibrated:
        raise click.ClickException(" ".join(f"{model}: {found}; nothing was written.".replace("\n", ";").split()))
    loading.save_weights(network, out)
    click.echo(found.to_json() if as_json else f"{found}\nThe weights: {out.resolve()}")


@main.group(cls=Group, invoke_without_command=True, epilog="Example: normwise lab list")
@click.pass_context
def lab(ctx: click.Context) -> None:
    """Measure which claims about batch normalization hold."""
    _help_alone(ctx)


@lab.command("list", epilog="Example: normwise lab list --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def lab_list(as_json: bool) -> None:
    """List the experiments and the question that each answers."""
    from normwise.lab import describe, names

    width = min(100, shutil.get_terminal_size().columns)
    found = [describe(name) for name in names()]
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return
    for place, each in enumerate(found):
        if place:
            click.echo()
        click.secho(each.name, bold=True)
        click.echo(click.wrap_text(each.question, width, initial_indent="  ", subsequent_indent="  "))


@lab.command("run", epilog="Example: normwise lab run does_it_train_faster --seeds 10")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--seeds", type=int, metavar="N", help="Repeat every trial with N seeds, at least 2.")
@click.option("--full", is_flag=True, help="Run larger grids with more seeds.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("report"),
    show_default=True,
    help="Put the page and what was measured into this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else.")
@click.pass_context
def lab_run(ctx: click.Context, names: Sequence[str], seeds: int | None, full: bool, out: Path, as_json: bool) -> None:
    """Run experiments and write a page of what they found.

    Without a NAME all of them are run. A run that was interrupted continues where it stopped; what is finished is not
    run again.
    """
    from rich.console import Console

    from normwise import lab as room
    from normwise.report import page, progress

    page.require()  # before minutes are spent on results that could not be shown
    names = tuple(dict.fromkeys(names)) or tuple(room.names())
    try:
        with progress.Bars(Console(stderr=True), len(names)) as bars:
            results = room.run(names, seeds=seeds, full=full, out=out, progress=bars)
    except KeyboardInterrupt:
        click.echo(
            f"\nnormwise: interrupted; finished trials are kept in {out}, and the same command continues from there.",
            err=True,
        )
        ctx.exit(INTERRUPTED)
    written = out / "index.html"
    page.write(results, written)
    _print(results, as_json)
    click.echo(f"The page: {written.resolve()}", err=as_json)


def _print(results: Sequence[Result], as_json: bool) -> None:
    if as_json:
        from normwise.lab.results import to_json

        click.echo("[" + ",\n".join(to_json(result) for result in results) + "]")
        return
    from rich.console import Console

    from normwise.report import text

    console = Console()
    with console.capture() as captured:  # printed by click, which leaves a broken pipe to Program
        text.show(results, console)
    click.echo(captured.get(), nl=False, color=console.is_terminal and not console.no_color)
