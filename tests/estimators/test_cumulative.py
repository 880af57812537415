"""The plain average is algorithm 2 of the original paper."""

from __future__ import annotations

import numpy as np

from normwise.estimators.cumulative import Cumulative
from tests.estimators.streams import after, stream

EXAMINED = Cumulative()


def test_cumulative_is_algorithm_2() -> None:
    """E[x] = E_B[mu_B], Var[x] = m/(m-1) E_B[v_B] for batches of one size m."""
    batches = [batch for _, batch in stream([8] * 20)]
    statistics = after(EXAMINED, batches)
    np.testing.assert_allclose(statistics.mean, np.mean([b.mean for b in batches], axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.var, 8 / 7 * np.mean([b.var for b in batches], axis=0), rtol=1e-12)
