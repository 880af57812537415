"""Does the doctor find what is wrong, and is it silent on the healthy? ``python -m benchmarks.doctor [--quick]``.

Writes ``docs/evidence_of_the_doctor.md`` and ``benchmarks/results/doctor.json``; a part of the corpus is printed only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.doctor import page, zoo
from benchmarks.doctor.case import FAULTS
from benchmarks.doctor.healthy import states
from benchmarks.doctor.judging import (
    CALIBRATION,
    JUDGING,
    examine_healthy,
    examine_network,
    examine_sick,
    one_thread,
    sick_ones,
)
from benchmarks.doctor.models import KINDS
from benchmarks.doctor.scores import Examined
from normwise.lab.running import stamp

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence_of_the_doctor.md"
RESULTS = ROOT / "benchmarks" / "results" / "doctor.json"
QUICK_KINDS = ("dense", "convolutional")


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two kinds of models and one seed, no networks of other packages.")
@click.option("--only", metavar="CHECK", help="The faults of one check, and the healthy models.")
@click.option("--calibrate", is_flag=True, help="The seeds that limits were set on, in the place of the others.")
def command(*, quick: bool, only: str | None, calibrate: bool) -> None:
    """Run the corpus, print the page, and write it where it is whole."""
    if only is not None and only not in {each.check for each in FAULTS}:
        names = ", ".join(sorted({each.check for each in FAULTS}))
        raise click.UsageError(f"no fault of the corpus is one for the check {only!r}: choose one of {names}.")
    start = time.perf_counter()
    kinds = QUICK_KINDS if quick else tuple(KINDS)
    seeds = (CALIBRATION if calibrate else JUDGING)[: 1 if quick else None]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_thread) as pool:
        ills = _each(pool, "faults", examine_sick, [*sick_ones(only, kinds, seeds)])
        wells = [(build, kind, seed) for build in states(quick=quick) for kind in kinds for seed in seeds]
        healthy = [case for _, case in _each(pool, "healthy models", examine_healthy, wells)]
        others, left_out = ([], ["A quick run has no networks of other packages."]) if quick else _networks(pool)
    sick = [case for _, case in ills if case is not None]
    dropped = [(fault.name, kind, seed) for (fault, kind, seed), case in ills if case is None]
    about = {**_about(seeds), "seconds": time.perf_counter() - start}
    corpus = page.Corpus(tuple(sick), tuple(dropped), tuple(healthy), tuple(others), tuple(left_out), about)
    text = page.markdown(corpus)
    print(text)
    if quick or only or calibrate:
        print("This is a part of the corpus: nothing was written.")
        return
    page.write(RESULTS, page.to_json(corpus))
    page.write(PAGE, text)
    print(f"Written: {PAGE} and {RESULTS}")


def _each(
    pool: ProcessPoolExecutor, what: str, examine: Callable[..., Any], cases: Sequence[Any]
) -> list[tuple[Any, Any]]:
    """Each case with what became of it, in their order; a bar shows how far it is."""
    running = [pool.submit(examine, *case) for case in cases]
    return [(case, each.result()) for case, each in track([*zip(cases, running, strict=True)], what, transient=True)]


def _networks(pool: ProcessPoolExecutor) -> tuple[list[Examined], list[str]]:
    try:
        names = zoo.names()
    except zoo.NoNetworks as reason:
        return [], [str(reason)]
    found, left_out = [], []
    for _, (case, why) in _each(pool, "networks", examine_network, names):
        if why:
            words = ", ".join(check for check, _, _ in case.said) or "nothing"
            left_out.append(f"{case.name} is not healthy: {why} with statistics estimated once more; said: {words}.")
        else:
            found.append(case)
    return found, left_out


def _about(seeds: tuple[int, ...]) -> dict[str, Any]:
    return {
        "command": " ".join(["python -m benchmarks.doctor", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": stamp.cpu(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: value for name, value in stamp.versions().items() if name in {"torch", "python", "normwise"}},
        "seeds": seeds,
        "calibration seeds": CALIBRATION,
    }


if __name__ == "__main__":
    command()
