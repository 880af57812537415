"""Pooled statistics are those of one big batch."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.estimators.pooled import Pooled
from tests.estimators.streams import after, stream

EXAMINED = Pooled()


@pytest.mark.parametrize("sizes", [[64, 64, 2], [1, 5, 1], [8] * 10], ids=str)
@pytest.mark.parametrize("drift", [0.0, 10.0], ids=["shuffled", "sorted"])
def test_pooled_is_one_big_batch(sizes: list[int], drift: float) -> None:
    """Ragged, sorted, in any order: mean and unbiased variance of everything seen."""
    seen = list(stream(sizes, drift=drift))
    everything = np.concatenate([values for values, _ in seen])
    for order in (seen, seen[::-1]):
        statistics = after(EXAMINED, [batch for _, batch in order])
        np.testing.assert_allclose(statistics.mean, everything.mean(0), rtol=1e-12)
        np.testing.assert_allclose(statistics.var, everything.var(0, ddof=1), rtol=1e-11)
