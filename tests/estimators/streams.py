"""Streams of batches for the estimators' tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from normwise.estimators import Estimator, RunningStatistics
from normwise.kernels import reference
from normwise.moments import Moments

MEANS, DEVIATIONS = [0.0, 5.0, -100.0], [1.0, 0.1, 30.0]


def stream(sizes: list[int], *, drift: float = 0.0, seed: int = 0) -> Iterator[tuple[NDArray[np.float64], Moments]]:
    """Batches of 3 channels, as values and moments, whose mean moves by ``drift`` per batch."""
    rng = np.random.default_rng(seed)
    for step, size in enumerate(sizes):
        values = rng.normal(MEANS, DEVIATIONS, (size, 3)) + drift * step
        yield values, reference.moments(values)


def after(estimator: Estimator, batches: Iterable[Moments]) -> RunningStatistics:
    """The statistics after all batches."""
    statistics = RunningStatistics.start(3)
    for batch in batches:
        statistics = estimator.update(statistics, batch)
    return statistics
