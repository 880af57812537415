"""Standard input, output and error, as a shell may leave them: closed, full, a pipe without a reader, not UTF-8."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TextIO

import click


def prepare() -> bool:
    """Give the process three open streams that take every character; whether standard output was open.

    What is closed becomes /dev/null, or the next file that is opened would have its number and get what is printed.
    """
    was_open = True
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            was_open = was_open and name != "stdout"
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - open to the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    return was_open


def is_output(error: OSError) -> bool:
    """True if the error was raised by writing to standard output."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None or error.filename is not None:
        return False
    code = frame.tb_frame.f_code
    return code is flush.__code__ or (code is click.echo.__code__ and not frame.tb_frame.f_locals["err"])


def flush() -> None:
    """Write what standard output still holds back, so that an error of it is reported."""
    sys.stdout.flush()


def discard(stream: TextIO) -> None:
    """Let nothing more be written to a stream, not even what it still holds when Python ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Progress(io.TextIOBase):
    """Standard error for what only tells how far a run is: where nobody can read that, the run goes on."""

    def write(self, text: str) -> int:
        """Write it if that is possible."""
        try:
            return sys.stderr.write(text)
        except OSError:
            discard(sys.stderr)
            return len(text)

    def flush(self) -> None:
        """Write what is held back if that is possible."""
        try:
            sys.stderr.flush()
        except OSError:
            discard(sys.stderr)

    def isatty(self) -> bool:
        """True if a person reads it."""
        return sys.stderr.isatty()

    def fileno(self) -> int:
        """The number of standard error."""
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # TextIOBase has it as a variable
        """The encoding of standard error."""
        return sys.stderr.encoding


def complain(line: str) -> None:
    """Write a line to standard error; where nobody can read that, the exit code has to say it."""
    try:
        click.echo(line, err=True)
    except OSError:
        discard(sys.stderr)


def print_json(text: str) -> None:
    """Print JSON; what standard output cannot write stands there as JSON's own escape."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(each if each.isascii() else json.dumps(each)[1:-1] for each in text)
    click.echo(text)


def deaf() -> None:
    """Ignore Ctrl-C from here on; the process is about to end."""
    with suppress(ValueError):  # not in the main thread, as in a test
        signal.signal(signal.SIGINT, signal.SIG_IGN)
