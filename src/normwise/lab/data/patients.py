"""Patients with diabetes, ten features of each and how far the disease went: the data that scikit-learn ships."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes

from normwise.lab.intervals import Numbers


def half_of_them(first: str, second: str, seed: int) -> tuple[Numbers, Numbers]:
    """Two features of a random half of the patients, shape (221, 2), and the centred target, shape (221,).

    Args:
        first: a feature, by the name that scikit-learn gives it.
        second: another one.
        seed: of the half.
    """
    data, target, names = _all()
    half = np.random.default_rng(seed).permutation(len(target))[: len(target) // 2]
    x = data[half][:, [names.index(first), names.index(second)]]
    return x, target[half] - target[half].mean()


@cache
def _all() -> tuple[Numbers, Numbers, tuple[str, ...]]:
    loaded: Any = load_diabetes(scaled=False)
    return np.asarray(loaded.data, float), np.asarray(loaded.target, float), tuple(loaded.feature_names)
