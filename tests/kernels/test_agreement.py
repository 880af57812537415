"""Every implementation against the float64 reference: output, moments, running statistics and every gradient."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import normwise.torch as nt
from normwise.kernels import cpu, reference_activations, torch_activations
from normwise.kernels.aten import Aten
from normwise.kernels.kernel import Call, Kernel
from normwise.kernels.two_pass import TWO_PASS
from normwise.moments import Moments
from normwise.torch.functional import batch_norm
from normwise.torch.steps.operators import Cpu
from tests.cases import DTYPES, LAYOUTS, SHAPES, VALUES, Problem, allowed, array, law, problem, running
from tests.tolerances import SAFETY, unit, wide, worst

MOMENTUM = 0.25
ACTIVATIONS = sorted(reference_activations.ACTIVATIONS)
WITH_SETTINGS = ["elu:0.5", "elu:-1.5", "leaky_relu:0.2", "leaky_relu:-0.1", "leaky_relu:1.0", "leaky_relu:1e-30"]


class Outcome(NamedTuple):
    """The results of an implementation for a problem; the moments where it gives them, else the running statistics."""

    y: Tensor
    batch: Moments | None = None
    running: tuple[Tensor, Tensor] | None = None


class Inputs(NamedTuple):
    """The problem's tensors as leaves of a graph."""

    x: Tensor
    scale: Tensor
    shift: Tensor
    residual: Tensor | None


def _by_kernel(kernel: Kernel) -> Callable[[Problem, Inputs], Outcome]:
    def compute(p: Problem, i: Inputs) -> Outcome:
        call = Call(i.x, p.mask, p.mean, p.var, i.scale, i.shift, p.eps, p.activation, i.residual)
        return Outcome(*kernel.forward_batch(call)) if p.training else Outcome(kernel.forward_running(call))

    return compute


def _compiled(p: Problem, i: Inputs) -> Outcome:
    given = (None, None) if p.training else (p.mean, p.var)
    if p.x.dtype is torch.float64 and not cpu.is_exact(p.activation):  # the layers let PyTorch do the activation then
        call = Call(i.x, p.mask, p.mean, p.var, i.scale, i.shift, p.eps, p.activation, i.residual)
        return Outcome(*Cpu().forward_batch(call)) if p.training else Outcome(Cpu().forward_running(call))
    save_bits = i.residual is not None and cpu.has_one_bit(p.activation)
    x = i.x if cpu.serves(i.x) else i.x.contiguous()
    y, mean, var, _ = cpu.forward(
        x, i.residual, p.mask, i.scale, i.shift, given[0], given[1], p.eps, p.activation, save_bits
    )
    values = p.x.numel() // p.x.shape[1]
    count = values if p.mask is None else int(p.mask.sum()) * (values // p.mask.numel())
    return Outcome(y, Moments(mean, var, count) if p.training else None)


def _functional(p: Problem, i: Inputs) -> Outcome:
    mean, var = p.mean.clone(), p.var.clone()
    y = batch_norm(
        i.x, mean, var, i.scale, i.shift, p.training, MOMENTUM, p.eps,
        activation=p.activation, residual=i.residual, mask=p.mask,
    )  # fmt: skip
    return Outcome(y, running=(mean, var))


def _layer(p: Problem, i: Inputs) -> Outcome:
    kind = {2: nt.BatchNorm1d, 3: nt.BatchNorm1d, 4: nt.BatchNorm2d, 5: nt.BatchNorm3d}[p.x.dim()]
    layer = kind(p.x.shape[1], p.eps, MOMENTUM, dtype=p.scale.dtype, activation=p.activation).train(p.training)
    statistics = running(layer)
    for buffer, value in zip(statistics, (p.mean, p.var), strict=True):
        buffer.copy_(value)
    state = {"weight": i.scale, "bias": i.shift}
    y = torch.func.functional_call(layer, state, (i.x, i.residual), {"mask": p.mask})
    return Outcome(y, running=statistics)


IMPLEMENTATIONS: dict[str, Callable[[Problem, Inputs], Outcome]] = {
    "aten": _by_kernel(Aten()),
    "two_pass": _by_kernel(TWO_PASS),
    "cpu": _compiled,
    "functional": _functional,
    "layer": _layer,
}


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def can(implementation: str, p: Problem) -> bool:
    """True if the problem is one for the implementation: PyTorch's operator knows no mask."""
    return implementation != "aten" or p.mask is None


def assert_agrees(p: Problem, implementations: dict[str, Callable[[Problem, Inputs], Outcome]]) -> int:
    """Hold every implementation that the problem is for to the reference; how many these were."""
    said, dy = law(p)
    served = [name for name in implementations if can(name, p)]
    for name in served:
        exact = name in ("two_pass", "cpu", "triton") or p.mask is not None
        kept = wide(p.scale.dtype) if p.scale.dtype != p.x.dtype else p.x.dtype
        bound = allowed(
            p, said, dy, kept=None if exact and p.training else kept, running=not exact and p.x.stride(1) == 1
        )
        i = Inputs(_leaf(p.x), _leaf(p.scale), _leaf(p.shift), None if p.residual is None else _leaf(p.residual))
        before = [None if tensor is None else tensor.detach().clone() for tensor in i]
        outcome = implementations[name](p, i)
        outcome.y.backward(dy)

        expected = (said.y, said.gradients.x, said.gradients.scale, said.gradients.shift, said.gradients.residual)
        found = (outcome.y, *(None if tensor is None else tensor.grad for tensor in i))
        for what, result, right, limit in zip(("y", *i._fields), found, expected, bound, strict=True):
            assert (result is None) == (right is None), f"{name}: {what}"
            if result is not None and right is not None:
                share = worst(result, right, limit)
                assert share <= 1, f"{name}: {what} is off by {share:.3g} times what rounding explains"
        assert outcome.y.dtype == p.x.dtype, name
        for tensor, copy in zip(i, before, strict=True):
            if tensor is not None and copy is not None:
                assert torch.equal(tensor, copy), f"{name} changed its input"

        batch = said.batch
        if outcome.batch is not None:
            assert np.all(np.asarray(outcome.batch.count) == np.asarray(batch.count))
            assert_statistics(p, (outcome.batch.mean, outcome.batch.var), (batch.mean, batch.var), name)
        if outcome.running is not None:
            mean, var = array(p.mean), array(p.var)
            if p.training and batch.count > 1:
                mean = mean + MOMENTUM * (batch.mean - mean)
                var = var + MOMENTUM * (batch.unbiased_var() - var)
            assert_statistics(p, outcome.running, (mean, var), name)
    return len(served)


def assert_statistics(p: Problem, found: tuple[Tensor, ...], right: tuple[object, ...], name: str) -> None:
    """A mean to within the rounding of the values and of itself; a variance, of the spread and of what is kept."""
    mean, var = (torch.as_tensor(value, dtype=torch.float64) for value in right)
    u = max(unit(p.scale.dtype), unit(wide(p.x.dtype)))
    size = mean.abs() + p.mean.double().abs() + var.sqrt()
    limits = (
        (SAFETY * u + unit(torch.float64) * p.x.numel() ** 0.5) * size,  # the second is the reference's own
        # each deviation is off by a rounding of the mean, so their squares by twice that times the spread
        SAFETY * (u * (var + p.var.double()) + 2 * u * size * var.sqrt() + (u * size) ** 2),
    )
    for what, result, value, limit in zip(("mean", "var"), found, (mean, var), limits, strict=True):
        share = worst(result, value.numpy(), limit.numpy())
        assert share <= 1, f"{name}: {what} is off by {share:.3g} times what rounding explains"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, as in a test's name."""
    return str(dtype).removeprefix("torch.")


BY_SHAPE = list(product(SHAPES, VALUES, DTYPES, (True, False)))
BY_LAYOUT = list(
    product(("sequences", "images", "volumes"), LAYOUTS, DTYPES, (False, True), (False, True), (True, False))
)
BY_ACTIVATION = list(product(ACTIVATIONS, DTYPES, (False, True), (False, True), (True, False)))


def test_the_grids_are_as_large_as_they_are_meant_to_be() -> None:
    assert len(ACTIVATIONS) >= 12
    assert {*ACTIVATIONS} == {*torch_activations.ACTIVATIONS}
    assert len(BY_SHAPE) == 10 * 5 * 4 * 2
    assert len(BY_LAYOUT) == 3 * 4 * 4 * 2 * 2 * 2
    assert len(BY_ACTIVATION) == len(ACTIVATIONS) * 4 * 2 * 2 * 2
    assert len(IMPLEMENTATIONS) == 5


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_kind_of_values(shape: str, values: str, dtype: torch.dtype, training: bool) -> None:
    served = assert_agrees(problem(SHAPES[shape], dtype, values=values, training=training), IMPLEMENTATIONS)
    assert served == 5


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["sequences", "images", "volumes"])
def test_every_layout(shape: str, layout: str, dtype: torch.dtype, residual: bool, mask: bool, training: bool) -> None:
    p = problem(SHAPES[shape], dtype, layout=layout, activation="silu", residual=residual, mask=mask, training=training)
    assert assert_agrees(p, IMPLEMENTATIONS) == (4 if mask else 5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, *WITH_SETTINGS])
def test_every_activation(activation: str, dtype: torch.dtype, residual: bool, mask: bool, training: bool) -> None:
    p = problem((3, 4, 2, 7), dtype, activation=activation, residual=residual, mask=mask, training=training)
    assert assert_agrees(p, IMPLEMENTATIONS) == (4 if mask else 5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_name)
def test_parameters_in_the_low_precision_of_the_input(dtype: torch.dtype, mask: bool, training: bool) -> None:
    p = problem(SHAPES["images"], dtype, parameters=dtype, mask=mask, residual=True, training=training)
    assert assert_agrees(p, IMPLEMENTATIONS) == (4 if mask else 5)
