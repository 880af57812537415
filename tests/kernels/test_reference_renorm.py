"""The law of batch renormalization: by finite differences, by its identities, and by the numbers in the paper."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from normwise.kernels import reference, reference_renorm
from normwise.kernels.reference_renorm import Statistics

F64 = NDArray[np.float64]
EPS = 1e-3


def setting(shape: tuple[int, ...]) -> dict[str, F64]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(1.0, 2.0, shape),
        "dy": rng.normal(size=shape),
        "scale": rng.normal(1.0, 0.3, shape[1]),
        "shift": rng.normal(size=shape[1]),
    }


@pytest.mark.parametrize(("r_max", "d_max"), [(1.0, 0.0), (1.5, 0.4), (100.0, 100.0)])
@pytest.mark.parametrize("shape", [(7, 3), (4, 2, 3)], ids=str)
def test_gradients_are_those_of_finite_differences_at_held_r_and_d(
    shape: tuple[int, ...], r_max: float, d_max: float
) -> None:
    given = setting(shape)
    running = Statistics(np.full(shape[1], 0.4), np.full(shape[1], 1.2))
    _, r, d = reference_renorm.forward(given["x"], given["scale"], given["shift"], running, r_max, d_max, EPS)
    found = reference_renorm.backward(given["dy"], given["x"], given["scale"], running, r_max, d_max, EPS)

    def loss(values: dict[str, F64]) -> float:
        # by batch normalization, of which r and d change scale and shift
        plain, _ = reference.forward_batch(values["x"], None, None, EPS)
        along = (1, -1, *[1] * (len(shape) - 2))
        normalized = plain * r.reshape(along) + d.reshape(along)
        y = normalized * values["scale"].reshape(along) + values["shift"].reshape(along)
        return float((y * given["dy"]).sum())

    for name, gradient in zip(("x", "scale", "shift"), found, strict=True):
        numeric = np.zeros_like(given[name])
        for index in np.ndindex(numeric.shape):
            h = np.zeros_like(numeric)
            h[index] = 1e-6
            numeric[index] = (loss({**given, name: given[name] + h}) - loss({**given, name: given[name] - h})) / 2e-6
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6, err_msg=name)


def test_without_bounds_it_is_inference_and_with_none_left_it_is_batch_norm() -> None:
    given = setting((9, 3))
    mean, var = np.array([0.3, 1.0, 2.0]), np.array([0.5, 4.0, 2.0])
    law = (given["x"], given["scale"], given["shift"], Statistics(mean, np.sqrt(var + EPS)))
    free = reference_renorm.forward(*law, 1e6, 1e6, EPS).y
    np.testing.assert_allclose(
        free, reference.forward_fixed(given["x"], mean, var, given["scale"], given["shift"], EPS), rtol=1e-10
    )
    held = reference_renorm.forward(*law, 1.0, 0.0, EPS).y
    np.testing.assert_allclose(
        held, reference.forward_batch(given["x"], given["scale"], given["shift"], EPS)[0], rtol=1e-10
    )


def test_the_schedule_is_the_papers() -> None:
    assert reference_renorm.bounds(0) == (1.0, 0.0)
    assert reference_renorm.bounds(15000) == pytest.approx((1 + 2 * 10 / 35, 2.5))
    assert reference_renorm.bounds(1e6) == (3.0, 5.0)
