"""Forecasts of prices."""

from __future__ import annotations

import torch

from normwise.lab.training.forecast import Forecast


def test_by_statistics_of_its_own_a_window_s_scale_does_not_matter() -> None:
    model = Forecast(12, 8, seed=0, own=True).eval()
    window = torch.linspace(1.0, 2.0, 12)[None] ** 2
    with torch.no_grad():
        (small, at, scale), (large, at_large, scale_large) = model(window), model(50 * window)
    assert torch.allclose(small, large, atol=1e-5)
    assert torch.allclose(50 * (small * scale + at), large * scale_large + at_large, rtol=1e-5)
