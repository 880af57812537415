"""The stock prices are whole: every month, no price missing."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.lab.data.stock_prices import stocks


def test_every_stock_has_every_month() -> None:
    found = stocks()
    assert {"IBM", "MSFT", "AAPL", "^GSPC"} <= {stock.name for stock in found}
    for stock in found:
        assert len(stock.months) == len(stock.prices) > 380
        assert (stock.prices > 0).all()
        assert np.diff(stock.months) == pytest.approx(1 / 12)


def test_prices_are_those_of_the_file() -> None:
    ibm = next(stock for stock in stocks() if stock.name == "IBM")
    assert ibm.months[0] == 1990.0
    assert ibm.prices[:2] == pytest.approx([10.970438, 11.554416])
