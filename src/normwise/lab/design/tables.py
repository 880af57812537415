"""Tables from columns, with the caption that says what their intervals are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from normwise.lab.design.arms import Arm, Arms
from normwise.lab.intervals import Numbers, cell, mean, ratio
from normwise.lab.results import Table

Column = tuple[str, Callable[[Any], str]]
"""A head, and what gives the cell of a row."""


def table(
    caption: str,
    rows: Iterable[Any],
    *columns: Column,
    seeds: int | None = None,
    of: str = "seeds",
    more: str = "",
    tried: int | None = None,
) -> Table:
    """A table whose caption ends with what the intervals of its cells are.

    Args:
        caption: what the numbers are.
        rows: arms, groups of arms, or anything else that the columns understand.
        *columns: from left to right.
        seeds: behind every interval; None: those of the first row, which is an arm or a group of them.
        of: what the intervals are over, of which there are as many as seeds.
        more: what the caption says behind that.
        tried: rates that each arm had to choose from; None: those of the first row, where it is an arm whose rate was
            picked.
    """
    rows = list(rows)
    tried = _tried(rows[0]) if tried is None else tried
    more = f"{more}; the best of {tried} rates for each" if tried else more
    if seeds is None:
        seeds = rows[0].seeds if isinstance(rows[0], Arms) else len(rows[0])
    return Table(
        f"{caption}. Mean [95 % interval] over {seeds} {of}{more}",
        tuple(head for head, _ in columns),
        tuple(tuple(cell(row) for _, cell in columns) for row in rows),
    )


def _tried(row: Any) -> int:
    """The number of rates that an arm, or each of a group of arms, had to choose from; 0 where none was picked."""
    counts = {
        len(arm.rates) for arm in (row if isinstance(row, Arms) else [row]) if isinstance(arm, Arm) and arm.at is None
    }
    return max(counts, default=0) if len(counts) < 2 else 0


def average(values: Numbers, decimals: int) -> str:
    """A cell: the mean over seeds with its interval."""
    return cell(mean(values, ""), decimals)


def geometric(values: Numbers, decimals: int) -> str:
    """A cell: the geometric mean over seeds with its interval."""
    return cell(ratio(values, np.ones(len(values))), decimals)
