"""Mean and variance of many batches that are drawn from the same values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from normwise.lab.intervals import Numbers

CHUNKS = 20
"""The batches are drawn in so many parts, so that memory holds one at a time."""


def moments_of_batches(
    outputs: Numbers, size: int, count: int, random: np.random.Generator, by_class: npt.NDArray[np.int64] | None = None
) -> tuple[Numbers, Numbers]:
    """Mean and biased variance of every batch.

    Args:
        outputs: what is drawn from, with repetition, shape (n, units).
        size: of a batch.
        count: how many batches.
        random: draws.
        by_class: labels, shape (n,): each batch is of one class then; None: all are drawn from.

    Returns:
        Two of shape (count, units).
    """
    means, variances = [], []
    labels = np.zeros(len(outputs), np.int64) if by_class is None else by_class
    # a class is drawn as often as it occurs, so that all batches together are still drawn from the population
    rows = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    shares = np.array([len(each) for each in rows]) / len(labels)
    for chunk in np.array_split(np.arange(count), CHUNKS):
        if by_class is None:
            drawn = random.integers(0, len(labels), size=(len(chunk), size))
        else:
            chosen = random.choice(len(rows), size=len(chunk), p=shares)
            drawn = np.stack([random.choice(rows[label], size=size) for label in chosen])
        values = outputs[drawn]
        means.append(values.mean(axis=1))
        variances.append(values.var(axis=1))
    return np.concatenate(means), np.concatenate(variances)
