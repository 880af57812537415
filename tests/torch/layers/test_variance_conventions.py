"""Biased and unbiased variances: what PyTorch stores, what Keras stores, and the way from one to the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import normwise.torch as nt
from normwise.moments import biased, unbiased
from tests.cases import array, running


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nt.BatchNorm1d], ids=["torch", "normwise"])
@pytest.mark.parametrize("n", [2, 8, 64])
def test_torch_divides_by_the_biased_variance_and_stores_the_unbiased(layer: type[nn.BatchNorm1d], n: int) -> None:
    x = torch.randn(n, 3, dtype=torch.float64)
    made = layer(3, momentum=1.0, eps=1e-12, dtype=torch.float64)
    y = made(x)
    np.testing.assert_allclose(array(y).var(0), 1, rtol=1e-9)
    np.testing.assert_allclose(array(running(made)[1]), array(x).var(0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("n", [2, 8, 64, 1000])
def test_a_running_variance_of_torchs_becomes_what_keras_would_have_stored(n: int) -> None:
    draw = np.random.default_rng(0)
    layer = nt.BatchNorm1d(3, momentum=0.1, dtype=torch.float64)
    moving = np.ones(3)  # Keras's: 0.9 * moving + 0.1 * biased variance
    start = 1.0
    for _ in range(20):
        x = draw.standard_normal((n, 3)) * [1, 5, 0.1]
        layer(torch.from_numpy(x))
        moving = 0.9 * moving + 0.1 * x.var(0)
        start *= 0.9
    # The 1 that both start from is no variance of a batch: without it the conversion is exact.
    stored = array(running(layer)[1]) - start
    np.testing.assert_allclose(biased(stored, n), moving - start, rtol=1e-10)
    np.testing.assert_allclose(unbiased(moving - start, n), stored, rtol=1e-10)


@pytest.mark.parametrize("n", [2, 3, 1000])
def test_there_and_back(n: int) -> None:
    var = torch.tensor([0.5, 2.0, 1e-8], dtype=torch.float64)
    torch.testing.assert_close(unbiased(biased(var, n), n), var)
    assert float(biased(var, n)[1]) == pytest.approx(2 * (n - 1) / n)


def test_one_value_has_no_unbiased_variance() -> None:
    assert np.isnan(unbiased(1.0, 1))
    assert biased(1.0, 1) == 0.0
