"""Try the operations on whole models on the architectures that people use: python -m benchmarks.zoo --family.

Each architecture runs in a process of its own, with a limit of time and of memory. What is measured is written at once,
so that a run that was interrupted goes on where it was; ``--again`` starts anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from benchmarks.zoo import page
from benchmarks.zoo.architectures import SOURCES, Architecture, listed, missing, one_per_family
from benchmarks.zoo.operations import OPERATIONS
from normwise.loading import write_text_whole

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
PAGE = ROOT / "docs" / "zoo.md"


@click.command(help=__doc__)
@click.option("--source", multiple=True, type=click.Choice(SOURCES), default=SOURCES, help="Packages to take from.")
@click.option("--only", multiple=True, help="Only architectures whose source/family/name has this in it (repeatable).")
@click.option("--family", is_flag=True, help="One architecture per family: a small one that has batch norms.")
@click.option(
    "--operation", multiple=True, type=click.Choice(list(OPERATIONS)), default=tuple(OPERATIONS), help="What to try."
)
@click.option(
    "--sizes", default="64,96,224", show_default=True, help="Sides of the images; the first that fits is taken."
)
@click.option("--batch", default=4, show_default=True, help="Images in a batch.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
@click.option("--seconds", default=300, show_default=True, help="Time limit of one architecture.")
@click.option("--memory", default=0.0, help="Memory limit of one architecture in GiB of address space; 0 for none.")
@click.option("--again", is_flag=True, help="Forget what was measured before.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The JSON file.")
@click.option("--page", "to", type=click.Path(path_type=Path), default=PAGE, help="The page.")
def main(
    *,
    source: tuple[str, ...],
    only: tuple[str, ...],
    family: bool,
    operation: tuple[str, ...],
    sizes: str,
    batch: int,
    seed: int,
    seconds: int,
    memory: float,
    again: bool,
    out: Path,
    to: Path,
) -> None:
    for sentence in missing(source):
        click.echo(sentence, err=True)
    try:
        sides = [int(side) for side in sizes.split(",")]
    except ValueError:
        raise click.UsageError(f"--sizes takes whole numbers with commas between, received {sizes!r}.") from None
    chosen = [each for each in listed(source) if _asked(each, only)]
    if not chosen:
        raise click.UsageError(f"no architecture has one of {[*only]} in its source/family/name.")
    task = {"sizes": sides, "batch": batch, "seed": seed, "operations": operation, "memory": memory}
    results: dict[str, Any] = {} if again or not out.exists() else json.loads(out.read_text("utf-8"))["results"]
    groups = one_per_family(chosen).values() if family else [[each] for each in chosen]
    about = {**report.machine(), "settings": {**task, "family": family, "only": only}}

    def keep() -> None:
        about["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        ordered = dict(sorted(results.items()))
        texts = {out: page.to_json(about, ordered), to: page.page(_shown(about), ordered, list(OPERATIONS))}
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_whole(path, text)

    try:
        for number, members in enumerate(groups, 1):
            _try(members, task, results, seconds, f"{number} of {len(groups)}")
            keep()
    except KeyboardInterrupt:
        click.echo("Interrupted: what was measured is written, and the next run goes on from there.", err=True)
        sys.exit(130)
    click.echo(f"Written: {to} and {out}")


def _asked(architecture: Architecture, only: tuple[str, ...]) -> bool:
    name = f"{architecture.source}/{architecture.family}/{architecture.name}"
    return not only or any(part in name for part in only)


def _try(
    members: Iterable[Architecture], task: dict[str, Any], results: dict[str, Any], seconds: int, place: str
) -> None:
    """The first of these that can be tried, at most three."""
    for each in [*members][:3]:
        name = f"{each.source}/{each.name}"
        if name not in results:
            click.echo(f"{place}: {name}", err=True)
            results[name] = {"family": each.family, **_apart(each, task, seconds)}
        if "absent" not in results[name]:
            return


def _apart(architecture: Architecture, task: dict[str, Any], seconds: int) -> dict[str, Any]:
    """One architecture in a process of its own."""
    given = {**task, "source": architecture.source, "family": architecture.family, "name": architecture.name}
    command = [sys.executable, "-m", "benchmarks.zoo.trial", json.dumps(given)]
    environment = {**os.environ, "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "torch")}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {seconds} seconds"}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return {"error": last[:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _shown(about: dict[str, Any]) -> dict[str, Any]:
    kept = ("date", "torch", "keras", "processor", "kernels")
    settings = about["settings"]
    return {
        **{name: about[name] for name in kept if name in about},
        "batch": settings["batch"],
        "seed": settings["seed"],
        "chosen": "one architecture per family" if settings["family"] else "every architecture that was reached",
    }


if __name__ == "__main__":
    main()
