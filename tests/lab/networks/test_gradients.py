"""Theorem 8 in its limits, and gradients of a network that is linear."""

from __future__ import annotations

import math

import pytest

from normwise.lab.networks.gradients import theorem_8


def test_theorem_8_in_the_limit_of_large_batches() -> None:
    assert theorem_8(1e9) == pytest.approx(math.pi / (math.pi - 1), rel=1e-6)
    assert theorem_8(60) == pytest.approx(1.4949, abs=1e-4)


def test_theorem_8_falls_with_the_batch_size() -> None:
    rates = [theorem_8(batch) for batch in (4, 8, 60, 1000)]
    assert rates == sorted(rates, reverse=True)
