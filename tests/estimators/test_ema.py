"""The exponential moving average is its closed form."""

from __future__ import annotations

import numpy as np

from normwise.estimators.ema import Ema
from tests.estimators.streams import after, stream

EXAMINED = Ema(weight_of_new=0.1)


def test_ema_is_the_closed_form() -> None:
    """(1 - w)^k of the start, and w (1 - w)^(k - j) of batch j."""
    batches = [batch for _, batch in stream([8] * 12, drift=1.0)]
    weights = np.array([0.1 * 0.9 ** (11 - j) for j in range(12)])
    statistics = after(EXAMINED, batches)
    np.testing.assert_allclose(statistics.mean, weights @ np.array([b.mean for b in batches]), rtol=1e-12)
    expected = 0.9**12 + weights @ np.array([b.unbiased_var() for b in batches])
    np.testing.assert_allclose(statistics.var, expected, rtol=1e-12)
