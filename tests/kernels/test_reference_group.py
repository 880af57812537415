"""The law of group, layer and instance norm: by PyTorch in float64, by finite differences, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from normwise.kernels import reference, reference_group
from normwise.kernels.reference_activations import ACTIVATIONS

F64 = NDArray[np.float64]
SHAPE = (3, 4, 2, 5)
# name: (axes of a set, the shape that x is given first, the shape of scale and shift, PyTorch's function)
KINDS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Callable[..., torch.Tensor]]] = {
    "group": ((2, 3, 4), (3, 2, 2, 2, 5), (1, 2, 2, 1, 1), lambda x, w, b: F.group_norm(x, 2, w, b)),
    "instance": ((2, 3), SHAPE, (1, 4, 1, 1), lambda x, w, b: F.instance_norm(x, weight=w, bias=b)),
    "layer": ((2, 3), SHAPE, (2, 5), lambda x, w, b: F.layer_norm(x, (2, 5), w.view(2, 5), b.view(2, 5))),
}


def numbers(*shape: int, seed: int) -> F64:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward_are_pytorchs_in_float64(kind: str) -> None:
    over, shape, parameters, function = KINDS[kind]
    x, dy = 2 * numbers(*SHAPE, seed=0) + 1, numbers(*SHAPE, seed=1)
    scale, shift = numbers(*parameters, seed=2), numbers(*parameters, seed=3)
    inputs = [torch.from_numpy(value.copy()).requires_grad_() for value in (x, scale.ravel(), shift.ravel())]
    y = function(*inputs)
    right = torch.autograd.grad(y, inputs, torch.from_numpy(dy))
    found = reference_group.forward(x.reshape(shape), over, scale, shift, 1e-5)
    np.testing.assert_allclose(found.reshape(SHAPE), y.detach().numpy(), rtol=1e-12, atol=1e-12)
    gradients = reference_group.backward(dy.reshape(shape), x.reshape(shape), over, scale, shift, 1e-5)
    for mine, theirs in zip(gradients[:3], right, strict=True):
        np.testing.assert_allclose(mine.ravel(), theirs.numpy().ravel(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: str, activation: str | None, masked: bool) -> None:
    over, shape, parameters, _ = KINDS[kind]
    dy = numbers(*shape, seed=1)
    mask = np.random.default_rng(4).random(shape) < 0.7 if masked else None
    arguments: list[F64] = [
        numbers(*shape, seed=0),
        numbers(*parameters, seed=2),
        numbers(*parameters, seed=3),
        numbers(*shape, seed=5),
    ]

    def loss(values: list[F64]) -> float:
        x, scale, shift, residual = values
        y = reference_group.forward(x, over, scale, shift, 1e-5, activation=activation, residual=residual, mask=mask)
        return float((dy * y).sum())

    x, scale, shift, residual = arguments
    right = reference_group.backward(
        dy, x, over, scale, shift, 1e-5, activation=activation, residual=residual, mask=mask
    )
    step = 1e-6
    for position, gradient in enumerate(right):
        assert gradient is not None
        direction = numbers(*arguments[position].shape, seed=6)
        ahead, behind = (
            [value + sign * step * direction if i == position else value for i, value in enumerate(arguments)]
            for sign in (1, -1)
        )
        slope = (loss(ahead) - loss(behind)) / (2 * step)
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=2e-5, atol=2e-6)


def test_instance_norm_is_batch_norm_of_one_sample_with_as_many_channels() -> None:
    x = numbers(3, 4, 5, seed=0)
    right, batch = reference.forward_batch(x.reshape(1, 12, 5), None, None, 1e-5)
    found = reference_group.forward(x, (2,), 1.0, 0.0, 1e-5)
    np.testing.assert_allclose(found.reshape(1, 12, 5), right, rtol=1e-12)
    np.testing.assert_allclose(reference_group.moments(x, (2,)).var.ravel(), batch.var)


def test_a_set_of_which_nothing_counts_is_zero_and_has_no_gradient() -> None:
    x: Any = [[1.0, 2.0], [np.nan, 5.0]]
    mask = [[True, True], [False, False]]
    y = reference_group.forward(x, (1,), 1.0, 3.0, 1e-5, mask=mask)
    assert y[1].tolist() == [0.0, 0.0]
    assert reference_group.backward(np.ones((2, 2)), x, (1,), 1.0, 3.0, 1e-5, mask=mask).x[1].tolist() == [0.0, 0.0]


def test_masked_values_are_as_if_they_were_not_there() -> None:
    x = numbers(2, 6, seed=0)
    mask = np.arange(6) < 4
    found = reference_group.forward(x, (1,), 1.0, 0.0, 1e-5, mask=mask)
    np.testing.assert_allclose(found[:, :4], reference_group.forward(x[:, :4], (1,), 1.0, 0.0, 1e-5), rtol=1e-12)
