"""Inputs that nobody thought of: any shape, strides, dtype and setting agree with the reference."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normwise.kernels import reference_activations
from normwise.torch.functional import batch_norm
from tests.cases import DTYPES, LAYOUTS, VALUES, allowed, array, law, problem
from tests.tolerances import wide, worst

SHAPES = st.tuples(
    st.integers(1, 6), st.integers(1, 9), st.lists(st.integers(1, 7), max_size=3).map(tuple)
).map(lambda parts: (parts[0], parts[1], *parts[2]))  # fmt: skip


@settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    shape=SHAPES,
    dtype=st.sampled_from(DTYPES),
    values=st.sampled_from(sorted(VALUES)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    activation=st.sampled_from([None, *sorted(reference_activations.ACTIVATIONS)]),
    residual=st.booleans(),
    mask=st.booleans(),
    training=st.booleans(),
    axes=st.randoms(use_true_random=False),
    seed=st.integers(0, 1000),
)
def test_any_input_agrees_with_the_reference(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    values: str,
    layout: str,
    activation: str | None,
    residual: bool,
    mask: bool,
    training: bool,
    axes: object,
    seed: int,
) -> None:
    if math.prod(shape) == shape[1]:
        shape = (2, *shape[1:])  # one value per channel is refused, which test_errors.py holds
    mask = mask and math.prod(shape) // shape[1] > 1
    p = problem(
        shape, dtype, values=values, layout=layout, activation=activation,
        residual=residual, mask=mask, training=training, seed=seed,
    )  # fmt: skip
    order = list(range(len(shape)))
    axes.shuffle(order)  # type: ignore[attr-defined]  # random.Random, by hypothesis
    x = p.x.permute(order).contiguous().permute([order.index(axis) for axis in range(len(shape))])
    p = p._replace(x=x if layout == "contiguous" else p.x)
    said, dy = law(p)
    exact = mask and training
    bound = allowed(p, said, dy, kept=None if exact else wide(dtype), running=not exact and p.x.stride(1) == 1)
    leaves = [tensor.detach().requires_grad_() for tensor in (p.x, p.scale, p.shift)]
    other = None if p.residual is None else p.residual.detach().requires_grad_()
    mean, var = p.mean.clone(), p.var.clone()
    y = batch_norm(
        leaves[0], mean, var, leaves[1], leaves[2], training, 0.5, p.eps,
        activation=activation, residual=other, mask=p.mask,
    )  # fmt: skip
    y.backward(dy)
    found = [y, *(leaf.grad for leaf in leaves)] + ([] if other is None else [other.grad])
    expected = [said.y, said.gradients.x, said.gradients.scale, said.gradients.shift, said.gradients.residual]
    for name, result, right, limit in zip(
        ("y", "x", "weight", "bias", "residual"), found, expected, bound, strict=False
    ):
        assert result is not None
        assert right is not None
        assert worst(result, right, limit) <= 1, name
    if training and said.batch.count > 1:
        right_mean = 0.5 * (array(p.mean) + said.batch.mean)
        np.testing.assert_allclose(mean.double().numpy(), right_mean, rtol=1e-5, atol=1e-6)
    elif not training:
        assert torch.equal(mean, p.mean)
        assert torch.equal(var, p.var)
