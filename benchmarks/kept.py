"""The rows of a result's file, each with the conditions under which it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.timing import CALM, hand_over

RESULTS = Path(__file__).with_name("results")
HAND_OVER = "hand-over before and after, ms"


class Conditions:
    """The things that times depend on: the machine, its load before, and how long a hand-over between threads takes."""

    def __init__(self) -> None:
        self._machine = report.machine()
        self._before = hand_over()

    def after(self) -> dict[str, Any]:
        """Today, and the machine with the hand-over before and after; to be asked for once the times are taken."""
        found = [self._before, hand_over()]
        calm = max(found) < CALM
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {**self._machine, HAND_OVER: [round(each, 3) for each in found], "calm": calm},
        }


def keep(path: Path, rows: Sequence[Mapping[str, Any]], *, by: Sequence[str]) -> None:
    """Writes rows into a file, in the place of those that it has of the same; its other rows stay.

    Args:
        path: of the file, which may not exist yet.
        rows: the new ones, each with its conditions.
        by: the names of the fields that say of what a row is.
    """

    def of(row: Mapping[str, Any]) -> str:
        return json.dumps([row[name] for name in by])

    before = json.loads(path.read_text("utf-8")) if path.exists() else {"rows": []}
    merged = {of(row): row for row in (*before["rows"], *rows)}
    path.write_text(json.dumps({**before, "rows": [*merged.values()]}, indent=1) + "\n", encoding="utf-8")
    print(f"Written: {path}")
