"""Try the operations on whole models on the architectures that people use: python -m benchmarks.zoo --family.

Each architecture runs in a process of its own, with a limit of time and of memory. What is measured is written at once,
so that a run that was interrupted goes on where it was; ``--again`` repeats it. The command exits with 1 where
anything differs or crashes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from benchmarks.zoo import children, page, trial
from benchmarks.zoo.architectures import SOURCES, Architecture, in_turn, listed, missing, survey
from benchmarks.zoo.operations import OPERATIONS
from normwise.loading import write_text_whole

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "zoo.json"
PAGE = ROOT / "docs" / "zoo.md"
BACKENDS = ("torch", "tensorflow", "jax")
KERAS_OPERATIONS = ("swap there and back", "swap to normwise", "freeze", "fold", "recalibrate")


@click.command(help=__doc__)
@click.option("--source", multiple=True, type=click.Choice(SOURCES), default=SOURCES, help="Packages to take from.")
@click.option("--only", multiple=True, help="Only architectures whose source/family/name has this in it (repeatable).")
@click.option("--family", is_flag=True, help="One architecture per family: the smallest one that has batch norms.")
@click.option(
    "--operation", multiple=True, type=click.Choice([*OPERATIONS]), default=(*OPERATIONS,), help="What to try."
)
@click.option(
    "--sizes", default="64,96,128,160", show_default=True, help="Sides of the images; the first that fits is taken."
)
@click.option("--parameters", default=30, show_default=True, help="Millions of parameters at most.")
@click.option("--backend", multiple=True, type=click.Choice(BACKENDS), default=("torch",), help="Of Keras.")
@click.option("--batch", default=2, show_default=True, help="Images in a batch.")
@click.option("--seed", default=0, show_default=True, help="Of the weights.")
@click.option("--pairs", default=1.0, show_default=True, help="Seconds for the pairs of a time; 0 keeps the times.")
@click.option("--seconds", default=180, show_default=True, help="Time limit of one, of the processor.")
@click.option("--minutes", default=0.0, help="After them no further architecture begins; 0 for no limit.")
@click.option("--memory", default=0.0, help="Memory limit of one architecture in GiB of address space; 0 for none.")
@click.option("--jobs", default=1, show_default=True, help="Architectures at a time; more only with --pairs 0.")
@click.option(
    "--resume/--again", "resume", default=True, help="Go on where the last run was, or repeat what is asked for."
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The JSON file.")
@click.option("--page", "to", type=click.Path(path_type=Path), default=PAGE, help="The page.")
def main(
    *,
    source: tuple[str, ...],
    only: tuple[str, ...],
    family: bool,
    operation: tuple[str, ...],
    sizes: str,
    parameters: int,
    backend: tuple[str, ...],
    batch: int,
    seed: int,
    pairs: float,
    seconds: int,
    minutes: float,
    memory: float,
    jobs: int,
    resume: bool,
    out: Path,
    to: Path,
) -> None:
    for sentence in missing(source):
        click.echo(sentence, err=True)
    try:
        sides = [int(side) for side in sizes.split(",")]
    except ValueError:
        raise click.UsageError(f"--sizes takes whole numbers with commas between, received {sizes!r}.") from None
    if jobs > 1 and pairs:
        raise click.UsageError("--jobs above 1 would disturb the times: add --pairs 0.")
    chosen = [each for each in listed(source, backend) if _asked(each, only)]
    if not chosen:
        raise click.UsageError(f"no architecture has one of {[*only]} in its source/family/name.")
    task = {
        "sizes": sides,
        "parameters": parameters,
        "batch": batch,
        "seed": seed,
        "pairs": pairs,
        "operations": operation,
        "memory": memory,
    }
    results, surveyed = _kept(out)
    about = {**report.machine(), "settings": {**task, "family": family, "only": only}}

    def keep() -> None:
        about["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        ordered = dict(sorted(results.items()))
        operations = {"PyTorch": [*OPERATIONS], "Keras": KERAS_OPERATIONS}
        texts = {
            out: page.to_json(about, surveyed, ordered),
            to: page.page({**_shown(about), "listed": len(chosen)}, surveyed, ordered, operations),
        }
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_whole(path, text)

    ends = time.monotonic() + 60 * minutes if minutes else float("inf")
    asked: list[str] = []
    try:
        if not family:
            _survey(chosen, surveyed, parameters)
        keep()
        groups = in_turn(chosen, surveyed, family=family)

        def group(number: int) -> dict[str, Any]:
            if time.monotonic() > ends:
                return {}
            place = f"{number + 1} of {len(groups)}"
            return _try(groups[number], task, known, seconds, place, resume=resume)

        known = {**results}  # what the threads read, while the results grow
        with ThreadPool(jobs) as pool:
            for found in pool.imap_unordered(group, range(len(groups))):
                asked += found
                results.update(found)
                keep()
    except KeyboardInterrupt:
        click.echo("Interrupted: what was measured is written, and the next run goes on from there.", err=True)
        sys.exit(130)
    click.echo(f"Written: {to} and {out}")
    wrong = page.wrong_of({name: results[name] for name in asked})
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(1 if wrong else 0)


def _asked(architecture: Architecture, only: tuple[str, ...]) -> bool:
    name = f"{architecture.source}/{architecture.family}/{architecture.name}"
    return not only or any(part in name for part in only)


def _kept(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The findings of an earlier run: results, and the survey."""
    found = json.loads(out.read_text("utf-8")) if out.exists() else {}
    if found.get("format") != page.FORMAT:
        return {}, {}
    return found["results"], found["survey"]


def _survey(chosen: Sequence[Architecture], surveyed: dict[str, Any], parameters: int) -> None:
    """Build what is not known yet without its tensors, to know its batch norms and parameters."""
    families: dict[tuple[str, str], list[str]] = {}
    for each in chosen:
        if each.key not in surveyed and not each.source.startswith("keras"):
            families.setdefault((each.source, each.family), []).append(each.name)
    for number, ((source, family), names) in enumerate(families.items(), 1):
        click.echo(f"survey {number} of {len(families)}: {source}/{family}", err=True)
        given = {"source": source, "family": family, "names": names, "parameters": parameters}
        found = children.apart(survey, given, 60 + 5 * len(names))
        words = {"absent": f"it cannot be built: {found['error']}"} if "error" in found else None
        surveyed.update({f"{source}/{name}": words or found[name] for name in names})


def _try(
    members: Sequence[Architecture],
    task: dict[str, Any],
    known: Mapping[str, Any],
    seconds: int,
    place: str,
    *,
    resume: bool,
) -> dict[str, Any]:
    """The results of these up to the first that can be tried, of five at most."""
    results = {}
    for each in [*members][:5]:
        result = known.get(each.key)
        if result is None or not resume:
            click.echo(f"{place}: {each.key}", err=True)
            found = _apart(each, task, seconds)
            if result is not None and "operations" in result and "operations" in found:
                if not task["pairs"]:
                    keep_times(result["operations"], found["operations"])
                found["operations"] = {**result["operations"], **found["operations"]}
            result = {"family": each.family, **found}
        results[each.key] = result
        if "absent" not in result:
            break
    return results


def keep_times(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Give operations that were not timed the times of an earlier run."""
    for name, operation in now.items():
        if not operation.get("times") and name in earlier:
            operation["times"] = earlier[name].get("times", {})


def _apart(architecture: Architecture, task: dict[str, Any], seconds: int) -> dict[str, Any]:
    """One architecture in a process of its own."""
    given = {**task, "source": architecture.source, "family": architecture.family, "name": architecture.name}
    if architecture.source.startswith("keras"):
        given["backend"] = architecture.source.partition("-")[2] or "torch"
    return children.apart(trial.main, given, seconds)


def _shown(about: dict[str, Any]) -> dict[str, Any]:
    kept = ("date", "torch", "keras", "tensorflow", "processor", "kernels")
    settings = about["settings"]
    return {
        **{name: about[name] for name in kept if name in about},
        **{name: settings[name] for name in ("batch", "seed")},
        "sides": ", ".join(map(str, settings["sizes"])),
        "parameters": f"at most {settings['parameters']} million",
    }


if __name__ == "__main__":
    main()
