"""The program that all commands belong to: it suggests names, and turns errors into sentences and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from normwise.commands import streams
from normwise.commands.values import title
from normwise.errors import NormwiseError, UnknownName

WRONG = 2
FAILED = 3
INTERRUPTED = 130
EXIT_CODES = {
    0: "The command did its work.",
    1: "`normwise doctor` found an error in the model.",
    WRONG: "The command line is wrong: it has an unknown command, option or name, an impossible value, or options that "
    "do not go together. The command did not begin. From `normwise doctor`, 2 also means that the model could not be "
    "examined.",
    FAILED: "The command line is right, but the work failed: a file or a library is missing, a file is damaged, the "
    "code in MODEL or DATA failed, an environment variable is wrong, or a result could not be written.",
    INTERRUPTED: "Ctrl-C ended the command. `normwise lab` keeps finished trials, and the same command continues from "
    "them.",
}
"""The meanings of the program's exit codes; ``docs/command_line.md`` is generated from it."""

NO_COMMANDS = {
    "convert": "use `normwise swap`, with --to normwise, --to torch or --to keras.",
    "freeze": "a file of weights does not say which layers are frozen; call normwise.freeze(model) in the program that "
    "trains.",
    "fuse": "fusing changes no weights, so a command would have nothing to write; call normwise.fuse(model) in the "
    "program that trains or serves.",
    "unfreeze": "a file of weights does not say which layers are frozen; call normwise.unfreeze(model) in the program "
    "that trains.",
}
"""Operations on whole models that are no commands, and why; ``docs/command_line.md`` is generated from it too."""


class Command(click.Command):
    """A command that says which word is too many."""

    failed = FAILED  # the exit code where the work fails

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the options and arguments.

        Raises:
            UsageError: there are more arguments than it takes.
        """
        ctx.allow_extra_args = True  # so that click leaves the sentence to us
        rest = super().parse_args(ctx, args)
        if rest:
            words = " and ".join(map(repr, map(str, rest)))
            raise click.UsageError(f"`{ctx.command_path}` does not take {words}: leave out {words}.", ctx)
        return rest


class Group(click.Group):
    """A group of commands that suggests the nearest one."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name.

        Raises:
            UsageError: there is none.
        """
        if ctx.parent is None and args[0] in NO_COMMANDS:
            raise click.UsageError(f"{args[0]!r} is not a command: {NO_COMMANDS[args[0]]}", ctx)
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(str(UnknownName("command", args[0], self.list_commands(ctx))), ctx)
        return super().resolve_command(ctx, args)


class Program(Group):
    """The whole command line, and the one place where an error becomes a sentence and an exit code."""

    failed = FAILED

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by its name, and learn how it fails.

        Raises:
            UsageError: there is none.
        """
        found = super().resolve_command(ctx, args)
        self.failed = getattr(found[1], "failed", FAILED)
        return found

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Take the options of the program itself, which may print its help."""
        with _kept_from_click():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _kept_from_click():
            done = super().invoke(ctx)
            streams.flush()
            return done

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command and end the process with one of ``EXIT_CODES``."""
        if not streams.prepare():
            _fail("standard output is closed: redirect it to a file, or to /dev/null.", FAILED)
        self.failed = FAILED
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except click.UsageError as error:
            _fail(self._usage(error), WRONG)
        except click.ClickException as error:
            _fail(_stopped(error.format_message()), self.failed)
        except (click.Abort, KeyboardInterrupt):
            interrupted()
        except NormwiseError as error:
            _interrupted_by(error)
            _fail(str(error), self.failed)
        except _KeptError as kept:
            _interrupted_by(kept.error)
            if streams.is_output(kept.error):
                _end_of_output(kept.error)
            file = kept.error.filename2 or kept.error.filename  # the second is what a whole file was to replace
            place = f"{str(file)!r}: " if file else ""
            _fail(f"{place}{kept.error.strerror or kept.error}.", self.failed)
        except Exception as error:
            _interrupted_by(error)
            traceback.print_exc()
            _fail(f"normwise itself has an error, please report it: {type(error).__name__}: {error}.", self.failed)
        sys.exit(code if isinstance(code, int) else 0)

    def _usage(self, error: click.UsageError) -> str:
        """The error in the command line; in our words where click's own do not say what to do."""
        path = error.ctx.command_path if error.ctx else "normwise"
        command = error.ctx.command if error.ctx else self
        if isinstance(error, click.NoSuchOption):
            known = [name for each in command.params for name in each.opts if name.startswith("--")]
            return str(UnknownName("option", error.option_name, [*known, "--help"], all_of_them=f"`{path} --help`"))
        if isinstance(error, click.BadOptionUsage) and "argument" in error.message:
            return f"{error.option_name} needs a value, which is missing: write the value after {error.option_name}."
        if isinstance(error, click.BadOptionUsage) and "value" in error.message:
            return f"{error.option_name} takes no value: leave out the = sign and what follows."
        if isinstance(error, click.MissingParameter) and error.param is not None:
            example = (command.epilog or "").removeprefix("Example: ")
            return f"`{path}` needs {title(error.param)}, which is missing; for example: {example}"
        return _stopped(error.format_message())


class _KeptError(Exception):
    """An operating system's error, which click would take for the end of a pipe that it prints to."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _kept_from_click() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _KeptError(error) from error


def interrupted() -> NoReturn:
    """End after Ctrl-C; another one while Python puts everything away is ignored."""
    streams.deaf()
    click.echo("normwise: interrupted.", err=True)
    sys.exit(INTERRUPTED)


def interrupted_trials(ctx: click.Context, out: Path) -> NoReturn:
    """End after Ctrl-C, and say what is kept of a run of trials.

    Args:
        ctx: of the command.
        out: the folder that finished trials are written into.
    """
    kept = f"; finished trials are kept in {out}, and the same command continues from there."
    finished = any((out / "trials").rglob("*.json"))
    streams.complain(f"\nnormwise: interrupted{kept if finished else ' before a trial was finished.'}")
    ctx.exit(INTERRUPTED)


def _interrupted_by(error: BaseException) -> None:
    """End as after Ctrl-C where an error came of that: a library's import, say, makes an ImportError of it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt):
            interrupted()
        seen = seen.__cause__ or seen.__context__


def _end_of_output(error: OSError) -> NoReturn:
    """A reader that has seen enough, such as ``head``, is no error; a full disk is."""
    streams.discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        sys.exit(0)
    _fail(f"standard output could not be written: {error.strerror or error}.", FAILED)


def _fail(sentence: str, code: int) -> NoReturn:
    first = sentence[:1] if sentence[1:2].isupper() else sentence[:1].lower()  # MODEL is a name
    streams.complain(" ".join(f"normwise: {first}{sentence[1:]}".splitlines()))
    sys.exit(code)


def _stopped(sentence: str) -> str:
    """A sentence of click's, which has a full stop only at times."""
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def help_alone(ctx: click.Context) -> None:
    """Print the help of a group that is called without a command."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
