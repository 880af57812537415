"""Writes a run: the numbers as JSON, and one self-contained page, drawn as the lab's report is."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from benchmarks import figures, tables
from benchmarks.memory import TREATMENTS
from benchmarks.rows import Row
from benchmarks.steps import Step
from benchmarks.targets import Mean, Target
from normwise.kernels import cpu
from normwise.lab.running import stamp
from normwise.report import columns, looks, wording
from normwise.report import figures as drawing

TEMPLATE = Path(__file__).with_name("page.html")
BUSY = "The machine was busy: threads waited for each other for a millisecond and more. Do not trust these numbers."
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class Run:
    """All that was measured, and all that it depends on."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    rows: tuple[Row, ...]
    steps: tuple[Step, ...]
    means: tuple[Mean, ...]
    targets: tuple[Target, ...]


def machine() -> dict[str, Any]:
    """The conditions that the numbers depend on: versions, processor, threads."""
    found = {name: version for name, version in stamp.versions().items() if version and name != "sklearn"}
    huge = re.search(r"\[(\w+)\]", HUGE_PAGES.read_text("ascii")) if HUGE_PAGES.exists() else None
    return {
        **found,
        "processor": stamp.cpu(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": cpu.instruction_set() if cpu.library is not None else "not built",
        "pytorch kernels": torch.backends.cpu.get_cpu_capability(),
        "transparent huge pages": huge[1] if huge else "unknown",
        "load before": round(os.getloadavg()[0], 2),
    }


def stem(date: str, about: dict[str, Any], *, complete: bool, calm: bool) -> str:
    """The name of the files: date, device, and whether it is a part only or not to be trusted."""
    device = re.sub(r"[^a-z0-9]+", "-", str(about["processor"]).lower()).strip("-") or "cpu"
    return f"{date[:10]}-{device}-{about['threads']}-threads{'' if complete else '-part'}{'' if calm else '-busy'}"


def write(run: Run, folder: Path, name: str) -> tuple[Path, Path]:
    """Both files, each at once or not at all.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in ((".json", to_json(run)), (".html", page(run))):
        path = folder / f"{name}{suffix}"
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        written.append(path)
    return written[0], written[1]


def to_json(run: Run) -> str:
    """Plain JSON; a number that is not finite becomes null."""
    return json.dumps({"format": 1, "memory": TREATMENTS, **_finite(asdict(run))}, indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(run: Run) -> str:
    """The page as text."""
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"page.html": TEMPLATE.read_text(encoding="utf-8")}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda thing: thing if hasattr(thing, "__html__") else wording.printable(str(thing)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Only the drawings and the style sheet enter unescaped; what is in the drawings was escaped when they were made.
    drawn = []
    shown = figures.all_of(run.rows)
    look = looks.styles(shown)
    for n, figure in enumerate(shown, 1):
        panels = [markupsafe.Markup(panel) for panel in drawing.draw(figure, look, prefix=f"figure-{n}")]
        keys = [
            (key.label, markupsafe.Markup(key.swatch)) for key in drawing.legend(figure, look, prefix=f"figure-{n}")
        ]
        drawn.append({"figure": figure, "panels": panels, "legend": keys})
    return environment.get_template("page.html").render(
        run=run,
        drawings=drawn,
        tables=_with_numeric(tables.all_of(run.rows, run.means, run.steps)),
        css=markupsafe.Markup(files("normwise.report").joinpath("page.css").read_text(encoding="utf-8")),
        treatments={
            name: text for name, text in TREATMENTS.items() if any(row.case.memory == name for row in run.rows)
        },
        minus=wording.minus,
        busy="" if run.machine.get("calm", True) else BUSY,
    )


def _with_numeric(found: Sequence[Any]) -> list[tuple[Any, list[bool]]]:
    return [(table, columns.numeric(table)) for table in found]
