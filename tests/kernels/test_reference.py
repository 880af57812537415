"""The law itself: every formula by finite differences, the paper's identity, and independence of the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from normwise.kernels import reference
from normwise.kernels.reference_activations import ACTIVATIONS

F64 = NDArray[np.float64]
EPS = 1e-5

# (N, C), (N, C, L) with a ragged size, one channel, one sample with spatial extent
SHAPES = [(7, 3), (4, 2, 5), (6, 1), (1, 3, 2, 3)]


def numeric_gradient(loss: Callable[[F64], float], at: F64) -> F64:
    """Central differences, error O(h^2) with h = 1e-6 of values near 1."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        h = np.zeros_like(at)
        h[index] = 1e-6
        gradient[index] = (loss(at + h) - loss(at - h)) / 2e-6
    return gradient


def setting(shape: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    """Inputs in general position: no value of the activation's argument on a kink."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(1.0, 2.0, shape),
        "dy": rng.normal(size=shape),
        "scale": rng.normal(1.0, 0.3, shape[1]),
        "shift": rng.normal(size=shape[1]),
        "residual": rng.normal(size=shape),
        "mean": rng.normal(size=shape[1]),
        "var": rng.uniform(0.5, 2.0, shape[1]),
    }


def weights_of(kind: str, shape: tuple[int, ...]) -> F64 | None:
    """None, a mask, or weights; at least two values per channel count."""
    rng = np.random.default_rng(5)
    positions = (shape[0], 1, *shape[2:])
    if kind == "all":
        return None
    weights = (rng.random(positions) > 0.4).astype(float) if kind == "mask" else rng.uniform(0.0, 3.0, positions)
    weights.flat[:2] = 1.0
    return weights


@pytest.mark.parametrize("kind", ["all", "mask", "weights"])
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_gradients_are_those_of_finite_differences(activation: str | None, with_residual: bool, kind: str) -> None:
    """For x, scale, shift and the residual, by the batch and by fixed statistics."""
    for shape in SHAPES:
        given = setting(shape)
        weights = weights_of(kind, shape)
        options: dict[str, Any] = {"activation": activation, "weights": weights}
        residual = given["residual"] if with_residual else None

        def by_batch(x: F64, scale: F64, shift: F64, r: F64 | None, o: dict[str, Any] = options) -> F64:
            return reference.forward_batch(x, scale, shift, EPS, residual=r, **o)[0]

        def by_fixed(
            x: F64,
            scale: F64,
            shift: F64,
            r: F64 | None,
            o: dict[str, Any] = options,
            given: dict[str, Any] = given,
        ) -> F64:
            return reference.forward_fixed(x, given["mean"], given["var"], scale, shift, EPS, residual=r, **o)

        inputs: list[Any] = [given["x"], given["scale"], given["shift"], residual]
        parameters = (given["scale"], given["shift"], EPS)
        for forward, gradients in (
            (by_batch, reference.backward_batch(given["dy"], given["x"], *parameters, residual=residual, **options)),
            (
                by_fixed,
                reference.backward_fixed(
                    given["dy"], given["x"], given["mean"], given["var"], *parameters, residual=residual, **options
                ),
            ),
        ):
            for position, analytic in enumerate(gradients):
                if analytic is None or inputs[position] is None:
                    assert analytic is None
                    assert inputs[position] is None
                    continue

                def loss(
                    value: F64,
                    position: int = position,
                    forward: Callable[..., F64] = forward,
                    inputs: list[Any] = inputs,
                    dy: F64 = given["dy"],
                ) -> float:
                    moved = [*inputs]
                    moved[position] = value
                    return float((dy * forward(*moved)).sum())

                np.testing.assert_allclose(analytic, numeric_gradient(loss, inputs[position]), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_finite_differences(name: str) -> None:
    """On a fine grid that avoids the kinks, far into the tails."""
    z = np.linspace(-30, 30, 1999) + 1e-4
    activation = ACTIVATIONS[name]
    h = 1e-5
    numeric = (activation.value(z + h) - activation.value(z - h)) / (2 * h)
    np.testing.assert_allclose(activation.slope(z), numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_never_overflow(name: str) -> None:
    """At the ends of float64 the value and the slope are finite, and no warning is raised."""
    z = np.array([-1e300, -750.0, 750.0, 1e300])
    assert np.isfinite(ACTIVATIONS[name].slope(z)).all()
    assert np.isfinite(ACTIVATIONS[name].value(z)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scale_and_shift_can_give_the_input_back(shape: tuple[int, ...]) -> None:
    """The paper's identity, exact with eps inside the root: gamma = sqrt(var + eps), beta = mean."""
    x = setting(shape)["x"]
    batch = reference.moments(x)
    y, _ = reference.forward_batch(x, np.sqrt(batch.var + EPS), batch.mean, EPS)
    assert np.abs(y - x).max() < 1e-12


@pytest.mark.parametrize("kind", ["all", "mask", "weights"])
def test_channels_last_is_the_same_with_the_axes_moved(kind: str) -> None:
    """Forward and every gradient."""
    given, shape = setting((4, 3, 2, 5)), (4, 3, 2, 5)
    weights = weights_of(kind, shape)

    def last(array: F64 | None) -> Any:
        return None if array is None else np.moveaxis(array, 1, -1)

    common = (given["scale"], given["shift"], EPS)
    first = reference.backward_batch(
        given["dy"], given["x"], *common, activation="silu", residual=given["residual"], weights=weights
    )
    moved = reference.backward_batch(
        last(given["dy"]),
        last(given["x"]),
        *common,
        activation="silu",
        residual=last(given["residual"]),
        weights=last(weights),
        axis=-1,
    )
    np.testing.assert_allclose(moved.x, last(first.x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moved.scale, first.scale, rtol=1e-12)
    np.testing.assert_allclose(moved.shift, first.shift, rtol=1e-12)
    assert first.residual is not None
    assert moved.residual is not None
    np.testing.assert_allclose(moved.residual, last(first.residual), rtol=1e-12)


def test_what_is_masked_does_not_matter() -> None:
    """NaN and inf in the padding change neither the output, nor the moments, nor a gradient."""
    given = setting((5, 2, 4))
    mask = np.ones((5, 1, 4), bool)
    mask[3:] = False
    spoiled = given["x"].copy()
    spoiled[3:], spoiled[4, 0, 0] = np.nan, np.inf
    clean = reference.forward_batch(given["x"][:3], given["scale"], given["shift"], EPS)
    masked = reference.forward_batch(spoiled, given["scale"], given["shift"], EPS, weights=mask)
    np.testing.assert_allclose(masked[0][:3], clean[0], rtol=1e-14)
    np.testing.assert_array_equal(masked[0][3:], 0.0)
    np.testing.assert_allclose(masked[1].var, clean[1].var, rtol=1e-14)
    assert masked[1].count == clean[1].count == 12
    gradients = reference.backward_batch(given["dy"], spoiled, given["scale"], given["shift"], EPS, weights=mask)
    expected = reference.backward_batch(given["dy"][:3], given["x"][:3], given["scale"], given["shift"], EPS)
    np.testing.assert_allclose(gradients.x[:3], expected.x, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(gradients.x[3:], 0.0)
    np.testing.assert_allclose(gradients.scale, expected.scale, rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)], ids=str)
def test_nothing_gives_nothing(shape: tuple[int, ...]) -> None:
    """No values: count 0, moments 0, an empty output, no warning."""
    y, batch = reference.forward_batch(np.zeros(shape), None, None, EPS)
    assert y.shape == shape
    assert batch.count == 0
    np.testing.assert_array_equal(batch.mean, np.zeros(3))


def test_nan_stays_in_its_channel() -> None:
    """A NaN spoils the moments of its channel and no other."""
    x = setting((4, 3))["x"]
    x[1, 1] = np.nan
    y, _ = reference.forward_batch(x, None, None, EPS)
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, [0, 2]]).all()


def test_weights_that_differ_by_channel_are_those_of_each_channel_alone() -> None:
    """One channel after the other, forward and backward, give the same as all at once."""
    draw = np.random.default_rng(0)
    x, dy, weights = draw.standard_normal((4, 3, 5)), draw.standard_normal((4, 3, 5)), draw.random((4, 3, 5))
    weights[weights < 0.3] = 0
    scale, shift = draw.standard_normal((2, 3))
    y, batch = reference.forward_batch(x, scale, shift, EPS, weights=weights)
    found = reference.backward_batch(dy, x, scale, shift, EPS, weights=weights)
    for c in range(3):
        at = np.s_[:, c : c + 1]
        alone, one = reference.forward_batch(x[at], scale[[c]], shift[[c]], EPS, weights=weights[at])
        right = reference.backward_batch(dy[at], x[at], scale[[c]], shift[[c]], EPS, weights=weights[at])
        np.testing.assert_allclose(y[at], alone)
        np.testing.assert_allclose([batch.mean[c], batch.var[c], batch.count[c]], [one.mean[0], one.var[0], one.count])
        np.testing.assert_allclose(found.x[at], right.x)
        np.testing.assert_allclose([found.scale[c], found.shift[c]], [right.scale[0], right.shift[0]])


def test_weights_that_do_not_fit_are_refused() -> None:
    """The message says what was received."""
    with pytest.raises(
        ValueError, match=r"^weights need the axes of \(4, 3\) or 1 for any of them, received the shape \(2, 3\)$"
    ):
        reference.moments(np.ones((4, 3)), weights=np.ones((2, 3)))
