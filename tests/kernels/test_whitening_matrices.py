"""The two inverse roots: what they are, and their derivatives, with eigenvalues apart, close and equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from normwise.kernels import covariance, reference_whitening
from normwise.kernels.inverse_root import inverse_root
from normwise.kernels.newton_root import newton_root
from tests.cases import LAYOUTS

ROOTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "eigendecomposition": inverse_root,
    "Newton": lambda matrix, eps: newton_root(matrix, eps, 5),
}


def turned(*eigenvalues: float) -> Tensor:
    """A symmetric matrix of these eigenvalues that is not diagonal."""
    draw = torch.Generator().manual_seed(0)
    size = len(eigenvalues)
    q = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64)).Q
    matrix: Tensor = q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T
    return matrix


SPECTRA = {
    "apart": turned(0.5, 1.0, 4.0),
    "close": turned(1.0, 1.0 + 1e-9, 3.0),
    "two equal": turned(2.0, 2.0, 0.3),
    "all equal": 2.0 * torch.eye(3, dtype=torch.float64),
    "next to nothing in one direction": turned(1e-4, 1.0, 2.0),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_it_is_the_inverse_root(spectrum: str) -> None:
    sigma = SPECTRA[spectrum]
    w = inverse_root(sigma, 1e-3)
    torch.testing.assert_close(w @ (sigma + 1e-3 * torch.eye(3)) @ w, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(w, w.T)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", ROOTS)
def test_derivatives_of_first_second_and_third_order(name: str, spectrum: str) -> None:
    root = ROOTS[name]

    def call(a: Tensor) -> Tensor:  # only symmetric matrices have one
        return root((a + a.T) / 2, 0.1)

    at = SPECTRA[spectrum].clone().requires_grad_()
    assert gradcheck(call, [at])
    assert gradgradcheck(call, [at])

    def gradient(a: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(call(a).sin().sum(), a, create_graph=True)
        assert isinstance(found, Tensor)
        return found

    assert gradgradcheck(gradient, [at])


@pytest.mark.parametrize("name", ["apart", "close"])
def test_the_derivative_by_eigenvectors_has_the_gaps_that_ours_has_not(name: str) -> None:
    sigma = SPECTRA[name].clone().requires_grad_()
    values, vectors = torch.linalg.eigh(sigma)
    weights = torch.arange(9.0, dtype=torch.float64).view(3, 3)
    weights = weights + weights.T
    (right,) = torch.autograd.grad((inverse_root(sigma, 0.0) * weights).sum(), sigma)
    (found,) = torch.autograd.grad(((vectors * values.rsqrt()) @ vectors.T * weights).sum(), sigma)
    off = float((found - right).abs().max() / right.abs().max())
    assert off < 1e-9 if name == "apart" else off > 1e-9


@pytest.mark.parametrize("name", ROOTS)
def test_functions_are_transformed(name: str) -> None:
    root = ROOTS[name]
    sigmas = torch.stack([SPECTRA["apart"], SPECTRA["two equal"]])
    each = torch.stack([root(sigma, 0.1) for sigma in sigmas])
    torch.testing.assert_close(torch.func.vmap(lambda sigma: root(sigma, 0.1))(sigmas), each)
    torch.testing.assert_close(root(sigmas, 0.1), each)
    found = torch.func.vmap(torch.func.grad(lambda sigma: root(sigma, 0.1).sin().sum()))(sigmas)
    leaf = sigmas.clone().requires_grad_()
    (right,) = torch.autograd.grad(root(leaf, 0.1).sin().sum(), leaf)
    torch.testing.assert_close(found, right)


def test_many_steps_in_pairs_stay_at_the_root() -> None:
    sigma = turned(1e-3, 0.1, 1.0)
    torch.testing.assert_close(newton_root(sigma, 0.0, 100), inverse_root(sigma, 0.0), rtol=1e-9, atol=1e-9)
    share = sigma / sigma.trace()
    p = torch.eye(3, dtype=torch.float64)
    for _ in range(100):  # as the paper writes them
        p = 0.5 * (3 * p - p @ p @ p @ share)
    assert not bool(p.isfinite().all())


def test_what_is_not_finite_becomes_nan_in_its_group_only() -> None:
    sigmas = torch.stack([SPECTRA["apart"], SPECTRA["two equal"]])
    sigmas[0, 1, 2] = float("inf")
    found = inverse_root(sigmas, 0.1)
    assert bool(found[0].isnan().all())
    torch.testing.assert_close(found[1], inverse_root(sigmas[1], 0.1))


def test_a_negative_eigenvalue_by_rounding_counts_as_zero() -> None:
    w = inverse_root(turned(-1e-4, 1.0, 2.0), 1e-5)
    torch.testing.assert_close(torch.linalg.eigvalsh(w).max(), torch.tensor(1e-5, dtype=torch.float64).rsqrt())


@pytest.mark.parametrize("kind", [None, "mask", "weights"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(7, 6), (3, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 2)], ids=str)
def test_the_covariance_is_the_references(shape: tuple[int, ...], layout: str, kind: str | None) -> None:
    draw = torch.Generator().manual_seed(0)
    x = LAYOUTS[layout](torch.randn(shape, generator=draw, dtype=torch.float64) + 4)
    weights = None
    if kind is not None:
        weights = torch.rand((shape[0], 1, *shape[2:]), generator=draw)
        weights = weights < 0.7 if kind == "mask" else weights
    found = covariance.gather(x, 3, weights)
    mean, right, number = reference_whitening.moments(x.numpy(), 3, None if weights is None else weights.numpy())
    np.testing.assert_allclose(found.mean.numpy(), mean.ravel())
    np.testing.assert_allclose(found.covariance.numpy(), right, rtol=1e-10, atol=1e-12)
    assert float(found.number) == pytest.approx(number)
    matrix = torch.randn(2, 3, 3, generator=draw, dtype=torch.float64)
    product = covariance.multiplied(matrix, found.centred)
    rows = reference_whitening.grouped(found.centred.numpy(), 3)
    np.testing.assert_allclose(product.numpy(), reference_whitening.ungrouped(matrix.numpy() @ rows, shape), atol=1e-12)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_a_mean_far_from_zero_costs_no_digits(layout: str) -> None:
    x = LAYOUTS[layout](torch.randn((8, 4, 32, 32), generator=torch.Generator().manual_seed(0)) + 1e4)
    right = reference_whitening.moments(x.double().numpy(), 4)[1]
    np.testing.assert_allclose(covariance.gather(x, 4).covariance.numpy(), right, atol=1e-5)
