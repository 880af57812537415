"""Layers that change one thing of batch normalization."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normwise.lab.networks.variants import HeldBatchNorm, LayerNorms, Noise, NormOfBatch
from normwise.torch import BatchNorm1d


def test_the_norms_by_hand_and_the_averages_of_inference() -> None:
    x = torch.tensor([[[0.0, 0.0, 3.0, 1.0]]])  # deviations -1, -1, 2, 0
    for norm, size in (("l2", 1.5**0.5), ("l1", 1.0), ("linf", 2.0)):
        layer = NormOfBatch(1, norm)
        y = layer(x)
        torch.testing.assert_close(y.detach(), (x - 1) / size, rtol=2e-3, atol=2e-3)
        layer.eval()
        torch.testing.assert_close(layer(x), y)  # debiased: after one batch they are that batch's


def test_the_noise_has_the_papers_moments_and_is_there_when_asked_for() -> None:
    noise = Noise(nn.Identity(), 400, 0)
    y = noise(torch.ones(1, 400, 500))[0]
    assert 0.4 < float(y.mean(dim=1).max() - 1.125) < 0.8  # mu of up to .5, sigma between 1 and 1.25
    assert float(y.mean()) == pytest.approx(1.125, abs=0.05)
    assert float(y.std(dim=1).mean()) == pytest.approx((0.1**2 + 0.2**2 / 12) ** 0.5, rel=0.05)
    noise.eval()
    assert torch.equal(noise(torch.ones(1, 400, 500)), torch.ones(1, 400, 500))
    noise.on = True
    assert not torch.equal(noise(torch.ones(1, 400, 500)), torch.ones(1, 400, 500))


def test_held_statistics_give_the_same_output_and_running_statistics() -> None:
    x = torch.randn(20, 4, dtype=torch.float64)
    plain, held = BatchNorm1d(4, dtype=torch.float64), HeldBatchNorm(4, "both", torch.float64)
    torch.testing.assert_close(held(x), plain(x))
    torch.testing.assert_close(held.layer.running_var, plain.running_var)
    plain.eval()
    held.eval()
    torch.testing.assert_close(held(x), plain(x))


def test_the_gradient_of_held_statistics_is_that_of_a_constant_factor() -> None:
    x = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(20, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((HeldBatchNorm(4, "both", torch.float64)(x) * weights).sum(), x)
    torch.testing.assert_close(gradient, weights / (x.var(dim=0, correction=0).detach() + 1e-5).sqrt())


def test_layer_norm_of_a_stack_is_that_of_each_member() -> None:
    layer = LayerNorms(2, 10)
    x = torch.randn(1, 10, 3, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    for member in range(2):
        units = slice(5 * member, 5 * member + 5)
        alone = torch.nn.functional.layer_norm(x[0, units].T, (5,)).T
        assert torch.allclose(y[0, units], alone, atol=1e-6)
