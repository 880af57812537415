"""The law of whitening: by finite differences, by Newton's iteration of matrices, and by what whitening means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from normwise.kernels import reference, reference_whitening
from normwise.kernels.reference_whitening import Function, newton, zca

F64 = NDArray[np.float64]
FUNCTIONS: dict[str, Function] = {"zca": zca, "3 steps": newton(3), "5 steps": newton(5)}
SHAPES = {"features": (9, 4), "images": (3, 6, 2, 3)}


def numbers(*shape: int, seed: int) -> F64:
    return np.random.default_rng(seed).normal(size=shape)


def mixed(*shape: int) -> F64:
    """Values whose channels have much to do with each other."""
    mixing = numbers(shape[1], shape[1], seed=8)
    return np.moveaxis(np.tensordot(mixing, numbers(*shape, seed=0), (1, 1)), 0, 1) + 3


def covariance(y: F64, size: int) -> F64:
    return reference_whitening.moments(y, size)[1]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_zca_makes_the_covariance_of_each_group_the_identity(shape: tuple[int, ...]) -> None:
    y = reference_whitening.forward(mixed(*shape), np.ones(shape[1]), np.zeros(shape[1]), 2, 0.0, zca)
    found = covariance(y, 2)
    np.testing.assert_allclose(found, np.broadcast_to(np.eye(2), found.shape), atol=1e-12)


def test_of_all_matrices_that_whiten_it_is_the_symmetric_one() -> None:
    sigma = covariance(mixed(20, 4), 4)
    matrix = reference_whitening.whitening(sigma, 0.0, zca)
    np.testing.assert_allclose(matrix, matrix.transpose(0, 2, 1), atol=1e-12)
    np.testing.assert_allclose(matrix @ sigma @ matrix, np.eye(4)[None], atol=1e-10)


def test_groups_of_one_channel_are_batch_norm() -> None:
    x, scale, shift = mixed(5, 3, 4), numbers(3, seed=1), numbers(3, seed=2)
    right, _ = reference.forward_batch(x, scale, shift, 1e-3)
    np.testing.assert_allclose(reference_whitening.forward(x, scale, shift, 1, 1e-3, zca), right, rtol=1e-12)


# Not many: as the paper writes them, the matrices' steps blow up their own rounding errors, by 1e7 after nine.
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_on_eigenvalues_are_newtons_steps_on_matrices(steps: int) -> None:
    sigma = covariance(mixed(20, 4), 4)[0] + 1e-3 * np.eye(4)
    share = sigma / np.trace(sigma)
    p = np.eye(4)
    for _ in range(steps):
        p = 0.5 * (3 * p - p @ p @ p @ share)
    found = reference_whitening.whitening(sigma[None], 0.0, newton(steps))[0]
    np.testing.assert_allclose(found, p / np.sqrt(np.trace(sigma)), rtol=1e-9, atol=1e-10)


def test_the_steps_tend_to_zca() -> None:
    sigma = covariance(mixed(200, 6), 6)
    right = reference_whitening.whitening(sigma, 1e-3, zca)
    errors = [
        np.abs(reference_whitening.whitening(sigma, 1e-3, newton(steps)) - right).max() for steps in (1, 5, 10, 40)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9 < errors[1]


def by_differences(loss: Callable[[F64], float], at: F64, step: float = 1e-6) -> F64:
    found = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        moved = at.copy()
        moved[place] += step
        ahead = loss(moved)
        moved[place] -= 2 * step
        found[place] = (ahead - loss(moved)) / (2 * step)
    return found


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_by_finite_differences(shape: tuple[int, ...], name: str, weighted: bool) -> None:
    function, channels = FUNCTIONS[name], shape[1]
    x, dy = mixed(*shape), numbers(*shape, seed=3)
    scale, shift = numbers(channels, seed=4), numbers(channels, seed=5)
    weights = np.random.default_rng(6).choice([0.0, 0.5, 1.0, 2.0], (shape[0], 1, *shape[2:])) if weighted else None

    def loss(x: F64, scale: F64, shift: F64) -> float:
        return float((dy * reference_whitening.forward(x, scale, shift, 2, 1e-2, function, weights=weights)).sum())

    found = reference_whitening.backward(dy, x, scale, 2, 1e-2, function, weights=weights)
    for mine, theirs in (
        (found.x, by_differences(lambda value: loss(value, scale, shift), x)),
        (found.scale, by_differences(lambda value: loss(x, value, shift), scale)),
        (found.shift, by_differences(lambda value: loss(x, scale, value), shift)),
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())


def test_equal_eigenvalues_have_a_gradient() -> None:
    # Two channels that are alike and independent: the covariance is a multiple of the identity.
    x = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    dy = numbers(4, 2, seed=3)
    ones, zeros = np.ones(2), np.zeros(2)
    found = reference_whitening.backward(dy, x, ones, 2, 0.0, zca).x
    right = by_differences(
        lambda value: float((dy * reference_whitening.forward(value, ones, zeros, 2, 0.0, zca)).sum()), x
    )
    np.testing.assert_allclose(found, right, atol=1e-8)
