"""One architecture of each family on the page of the zoo, and that the operations do there what the page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.zoo import summary, trial
from benchmarks.zoo.architectures import Architecture, in_turn

ROOT = Path(__file__).resolve().parents[3]
KEPT = json.loads((ROOT / "benchmarks/results/zoo.json").read_text("utf-8"))["results"]
OPERATIONS = ["fuse", "swap there and back", "freeze", "fold", "recalibrate"]
SETTINGS = {"sizes": [64, 96, 128, 160], "batch": 2, "seed": 0, "pairs": 0, "memory": 0, "parameters": 30}


def of_each_family(source: str) -> pytest.MarkDecorator:
    """The architecture of each family that has the fewest parameters, among those that the zoo tried."""
    tried = {key: row for key, row in KEPT.items() if key.startswith(f"{source}/") and "operations" in row}
    found = [Architecture(source, row["family"], key.partition("/")[2]) for key, row in tried.items()]
    smallest = [group[0] for group in in_turn(found, tried, family=True)]
    return pytest.mark.parametrize("architecture", smallest, ids=lambda each: each.name)


def unlike_the_page(architecture: Architecture) -> dict[str, Any]:
    """The operations that differ from the page when they are tried again, each as now and as on the page.

    What counts is what came of an operation, of how many layers, and what it changed that it must not change.
    """
    kept = KEPT[architecture.key]["operations"]
    task = {**vars(architecture), **SETTINGS, "operations": [name for name in OPERATIONS if name in kept]}
    found = trial.main(task)
    if len(found.get("operations", ())) < len(task["operations"]):
        return {"all": found}
    now = {name: (_said(row), _said(kept[name])) for name, row in found["operations"].items()}
    return {name: both for name, both in now.items() if both[0] != both[1]}


def _said(row: dict[str, Any]) -> tuple[str, int, int, list[str]]:
    """The words of the page for one operation: what came of it, of how many layers, and what differs."""
    return summary.status(row), row.get("done", 0), row.get("of", 0), row.get("wrong", [])
