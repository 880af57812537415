"""The window drops the early and the late batches."""

from __future__ import annotations

import numpy as np
import pytest

from normwise.errors import NormwiseError
from normwise.estimators.window import Window
from tests.estimators.streams import after, stream

EXAMINED = Window(start=3, stop=9)


def test_window_drops_the_early_and_the_late_batches() -> None:
    """Batches 3 to 8 of 15 count; before the window opens it is the average so far; after it nothing moves."""
    batches = [batch for _, batch in stream([8] * 15, drift=1.0)]
    means = np.array([b.mean for b in batches])
    np.testing.assert_allclose(after(EXAMINED, batches[:2]).mean, means[:2].mean(0), rtol=1e-12)
    np.testing.assert_allclose(after(EXAMINED, batches[:4]).mean, means[3], rtol=1e-12)
    np.testing.assert_allclose(after(EXAMINED, batches).mean, means[3:9].mean(0), rtol=1e-12)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (4, 2)])
def test_window_refuses_bounds_that_hold_nothing(start: int, stop: int) -> None:
    """With what was received and what to do."""
    with pytest.raises(NormwiseError) as error:
        Window(start=start, stop=stop)
    assert str(error.value) == (
        f"a window needs 0 <= start < stop, received start={start} and stop={stop}: "
        "state both as numbers of batches, counted from 0."
    )
