"""The debiased average has no trace of its start."""

from __future__ import annotations

import numpy as np

from normwise.estimators.debiased_ema import DebiasedEma
from tests.estimators.streams import after, stream

EXAMINED = DebiasedEma(weight_of_new=0.1)


def test_debiased_ema_is_the_weighted_average_at_every_step() -> None:
    """The same weights, divided by their sum: no trace of the start."""
    batches = [batch for _, batch in stream([8] * 12, drift=1.0)]
    for k in (1, 2, 12):
        weights = np.array([0.9 ** (k - 1 - j) for j in range(k)])
        expected = weights @ np.array([b.mean for b in batches[:k]]) / weights.sum()
        np.testing.assert_allclose(after(EXAMINED, batches[:k]).mean, expected, rtol=1e-12)
