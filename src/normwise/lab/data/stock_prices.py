"""Monthly stock prices, 1990 to 2022: the sample data that matplotlib ships, so that nothing is downloaded."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import cbook

from normwise.lab.intervals import Numbers

FILE = "Stocks.csv"


@dataclass(frozen=True)
class Prices:
    """One stock, month after month without a gap.

    Args:
        name: the stock's symbol.
        months: years with their fraction, 1990.0 for January 1990; shape (n,).
        prices: adjusted for splits and dividends, in dollars, shape (n,).
    """

    name: str
    months: Numbers
    prices: Numbers


@cache
def stocks() -> tuple[Prices, ...]:
    """Every stock and index that has a price for every month.

    Days on which splits and dividends were paid are rows without prices, or with that of the last month again: only
    the first day of a month counts.
    """
    path = cbook.get_sample_data(FILE, asfileobj=False)
    with Path(str(path)).open(encoding="utf-8") as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))
    monthly = [row for row in rows[1:] if row[0].endswith("-01") and any(row[1:])]
    months = np.array([int(row[0][:4]) + (int(row[0][5:7]) - 1) / 12 for row in monthly])
    found = []
    for column, name in enumerate(rows[0][1:], start=1):
        cells = [row[column] for row in monthly]
        if all(cells):
            found.append(Prices(name, months, np.array([float(cell) for cell in cells])))
    return tuple(found)
