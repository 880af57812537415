"""Small models and rows that every test of the comparison uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from torch import nn

from normwise.lab.comparison.rows import Rows
from normwise.lab.data.splits import digits

Make = Callable[[], nn.Module]


@pytest.fixture(scope="session")
def rows() -> Rows:
    """Real digits, 720 of them."""
    part = digits(0).train
    return Rows(part.images.numpy()[:720], part.labels.numpy()[:720].astype(np.int64))


@pytest.fixture
def net() -> Make:
    """Builds a dense network with one batch norm before its activation."""
    return lambda: nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture
def images() -> Make:
    """Builds a convolutional one."""
    return lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 10),
    )
