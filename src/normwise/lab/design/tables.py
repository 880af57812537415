"""Tables from columns, with the caption that says what their intervals are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from normwise.lab.design.arms import Arms
from normwise.lab.intervals import Numbers, cell, mean, ratio
from normwise.lab.results import Table

Column = tuple[str, Callable[[Any], str]]
"""A head, and what gives the cell of a row."""


def table(
    caption: str, rows: Iterable[Any], *columns: Column, seeds: int | None = None, of: str = "seeds", more: str = ""
) -> Table:
    """A table whose caption ends with what the intervals of its cells are.

    Args:
        caption: what the numbers are.
        rows: arms, groups of arms, or anything else that the columns understand.
        *columns: from left to right.
        seeds: behind every interval; None: those of the first row, which is an arm or a group of them.
        of: what the intervals are over, of which there are as many as seeds.
        more: what the caption says behind that.
    """
    rows = list(rows)
    if seeds is None:
        seeds = rows[0].seeds if isinstance(rows[0], Arms) else len(rows[0])
    return Table(
        f"{caption}. Mean [95 % interval] over {seeds} {of}{more}",
        tuple(head for head, _ in columns),
        tuple(tuple(cell(row) for _, cell in columns) for row in rows),
    )


def average(values: Numbers, decimals: int) -> str:
    """A cell: the mean over seeds with its interval."""
    return cell(mean(values, ""), decimals)


def geometric(values: Numbers, decimals: int) -> str:
    """A cell: the geometric mean over seeds with its interval."""
    return cell(ratio(values, np.ones(len(values))), decimals)
