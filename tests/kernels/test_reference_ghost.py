"""The law of virtual batches: by finite differences, and against PyTorch's operator on each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from normwise.kernels import reference_ghost

F64 = NDArray[np.float64]
EPS = 1e-5
PARTS = [[0, 3, 4], [5, 1], [2, 6]]


def setting(shape: tuple[int, ...]) -> dict[str, F64]:
    rng = np.random.default_rng(0)
    x, dy, residual = (rng.normal(1.0, 2.0, shape) for _ in range(3))
    return {
        "x": x,
        "dy": dy,
        "residual": residual,
        "scale": rng.normal(1.0, 0.3, shape[1]),
        "shift": rng.normal(size=shape[1]),
        "weights": rng.uniform(0.5, 2.0, (shape[0], 1, *shape[2:])),
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", [(7, 3), (7, 2, 4)], ids=str)
def test_gradients_are_those_of_finite_differences(
    shape: tuple[int, ...], activation: str | None, weighted: bool
) -> None:
    given = setting(shape)
    options: dict[str, Any] = {"activation": activation, "weights": given["weights"] if weighted else None}
    names = ("x", "scale", "shift", "residual")

    def loss(values: dict[str, F64]) -> float:
        y, _ = reference_ghost.forward_batch(
            values["x"], PARTS, values["scale"], values["shift"], EPS, residual=values["residual"], **options
        )
        return float((y * given["dy"]).sum())

    found = reference_ghost.backward_batch(
        given["dy"], given["x"], PARTS, given["scale"], given["shift"], EPS, residual=given["residual"], **options
    )
    for name, gradient in zip(names, found, strict=True):
        assert gradient is not None
        numeric = np.zeros_like(given[name])
        for index in np.ndindex(numeric.shape):
            h = np.zeros_like(numeric)
            h[index] = 1e-6
            up, down = ({**given, name: given[name] + sign * h} for sign in (1, -1))
            numeric[index] = (loss(up) - loss(down)) / 2e-6
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-6, err_msg=name)


def test_each_virtual_batch_is_a_batch_to_pytorch() -> None:
    given = setting((7, 3, 5))
    x, scale, shift = (torch.from_numpy(given[name]) for name in ("x", "scale", "shift"))
    y, batch = reference_ghost.forward_batch(given["x"], PARTS, given["scale"], given["shift"], EPS)
    for part in PARTS:
        right = F.batch_norm(x[part], None, None, scale, shift, True, 0.1, EPS)
        np.testing.assert_allclose(y[part], right.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(batch.mean, given["x"].mean((0, 2)))
    np.testing.assert_allclose(batch.var, given["x"].var((0, 2)))
    assert batch.count == 35
