"""Momentum said in the other framework's words, and what it does to PyTorch's statistics; in batches it is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normwise.torch as nt
from normwise.estimators import weight_of_window
from normwise.estimators.debiased_ema import DebiasedEma
from normwise.estimators.ema import Ema
from tests.cases import running

BATCHES = list(torch.randn((60, 16, 1), generator=torch.Generator().manual_seed(0)) + 3)


def test_kerass_momentum_makes_torchs_statistics_those_of_the_last_batch_and_a_window_does_not() -> None:
    ported, ours = nn.BatchNorm1d(1, momentum=0.99), nt.BatchNorm1d(1, estimator=Ema.over(199))
    for x in BATCHES:
        ported(x)
        ours(x)
    last = BATCHES[-1]
    assert abs(float(running(ported)[0]) - float(last.mean())) < 0.02
    residual = (1 - weight_of_window(199)) ** len(BATCHES)
    assert float(running(ours)[0]) == pytest.approx(3 * (1 - residual), abs=0.1)


def test_a_window_is_torchs_momentum_bit_for_bit() -> None:
    plain, ours = nn.BatchNorm1d(1, momentum=0.1), nt.BatchNorm1d(1, momentum=weight_of_window(19))
    for x in BATCHES:
        plain(x)
        ours(x)
    torch.testing.assert_close(running(ours), running(plain), rtol=1e-6, atol=0)


def test_a_third_of_torchs_start_is_left_after_a_hundred_batches_and_none_of_it_in_a_debiased_window() -> None:
    plain, ours = nn.BatchNorm1d(1, momentum=0.01), nt.BatchNorm1d(1, estimator=DebiasedEma.over(199))
    x = torch.tensor([[2.0], [4.0]])
    for _ in range(100):
        plain(x)
        ours(x)
    assert float(running(plain)[0]) == pytest.approx(3 * (1 - 0.37), abs=0.02)
    assert float(running(ours)[0]) == pytest.approx(3.0, rel=1e-5)
    assert float(running(ours)[1]) == pytest.approx(2.0, rel=1e-5)
