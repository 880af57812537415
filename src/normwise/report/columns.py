"""The columns of a table that hold numbers, to be set flush right on the page and in the terminal."""

from __future__ import annotations

import re

from normwise.lab.results import Table

_NUMBER = re.compile(r"[−+\-±≥≤<>≈~]?\s*\d")
_EMPTY = {"", "–", "—", "-", "∞", "n/a"}


def numeric(table: Table) -> list[bool]:
    """Say for every column whether all its cells begin with a number or stand for a missing one.

    Example:
        >>> numeric(Table("", ("network", "accuracy"), (("plain", "0.97 ± 0.01"), ("normed", "–"))))
        [False, True]
    """
    columns = ([row[place].strip() for row in table.rows] for place in range(len(table.columns)))
    return [bool(cells) and all(cell in _EMPTY or bool(_NUMBER.match(cell)) for cell in cells) for cells in columns]
