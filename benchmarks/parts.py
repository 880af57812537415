"""The parts of the benchmarks that run in a process of their own, and the options that they share.

Some change the process for good (the family's memory treatment), or are several processes (the backends of Keras).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.kept import RESULTS

IN_THIS_PROCESS = ("layers", "steps")
MODULES = {
    "recalibration": "recalibration",
    "save_memory": "save_memory",
    "compiled_memory": "compiled_memory",
    "process_memory": "process_memory",
    "accumulation": "accumulation",
    "profile": "step_profile",
    "threshold": "threshold_in_graphs",
    "keras": "keras_backends",
    "family": "family",
}
"""The module of each part that has a process of its own."""
THREADED = ("recalibration", "save_memory", "compiled_memory", "process_memory", "profile")
"""Those whose number of threads can be chosen."""
PARTS = (*IN_THIS_PROCESS, *MODULES)


def parser(doc: str | None, *, threads: int | None = None) -> argparse.ArgumentParser:
    """The options of a part: ``--quick``, ``--out``, and ``--threads`` where they can be chosen.

    Args:
        doc: the module's docstring.
        threads: how many unless the user says otherwise, if the number can be chosen.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a look, not a result: little, and nothing is written")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    if threads:
        made.add_argument("--threads", type=int, default=threads, help="of everybody (default: %(default)s)")
    return made


def in_this_process(chosen: Sequence[str]) -> tuple[str, ...]:
    """Those of the chosen parts that ``benchmarks.run`` measures itself.

    >>> in_this_process(["keras", "steps"])
    ('steps',)
    """
    return tuple(part for part in IN_THIS_PROCESS if part in chosen)


def commands(chosen: Sequence[str], *, quick: bool, threads: int | None, out: Path) -> list[list[str]]:
    """The commands of those of the chosen parts that have a process of their own.

    >>> commands(["layers", "family"], quick=True, threads=None, out=Path("here"))[0][1:]
    ['-m', 'benchmarks.family', '--quick', '--out', 'here']
    """
    return [
        [sys.executable, "-m", f"benchmarks.{MODULES[part]}"]
        + (["--quick"] if quick else [])
        + (["--threads", str(threads)] if threads and part in THREADED else [])
        + ["--out", str(out)]
        for part in PARTS
        if part in chosen and part in MODULES
    ]


def run(chosen: Sequence[str], *, quick: bool, threads: int | None, out: Path) -> int:
    """Runs them one after another; the largest of their exit codes."""
    out = out.resolve()
    return max((subprocess.call(each) for each in commands(chosen, quick=quick, threads=threads, out=out)), default=0)
