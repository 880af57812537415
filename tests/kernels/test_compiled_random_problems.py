"""The compiled kernels on inputs that nobody thought of, against the reference at the tolerances of every other test.

``NORMWISE_EXAMPLES=100000`` tries so many instead of a few hundred, and other ones on every run.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from normwise.kernels import cpu, reference
from tests.cases import LARGEST_MEAN, LAYOUTS, Problem, array, problem
from tests.kernels.test_agreement import ACTIVATIONS, IMPLEMENTATIONS, assert_agrees

if cpu.library is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

EXAMPLES = os.environ.get("NORMWISE_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 200),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    # A problem is drawn from a few numbers; what is thrown away or slow is the reference's doing.
    suppress_health_check=list(HealthCheck),
)
FEW = settings(SETTINGS, max_examples=int(EXAMPLES or 600) // 3)
COMPILED = {"cpu": IMPLEMENTATIONS["cpu"]}
LOW = (torch.float16, torch.bfloat16)
MOST = 20_000  # elements: the reference is not made for speed


def _shared(x: Tensor) -> Tensor:
    """One sample for all: stride 0."""
    return x[:1].expand(x.shape)


def _cut(x: Tensor) -> Tensor:
    """A slice of a longer last axis, which starts at an odd address."""
    longer = x.new_full((*x.shape[:-1], x.shape[-1] + 3), math.nan)
    longer[..., 1:-2] = x
    return longer[..., 1:-2]


STRIDES = {**LAYOUTS, "cut": _cut}


@st.composite
def shapes(draw: st.DrawFn, smallest: int = 1) -> tuple[int, ...]:
    """(N, C, *spatial) with up to three spatial axes."""
    channels = draw(st.one_of(st.integers(smallest, 9), st.integers(1, 300)))
    room = MOST // max(channels, 1)
    n = draw(st.one_of(st.integers(smallest, 5), st.integers(1, min(room, 10_000))))
    spatial: list[int] = []
    for _ in range(draw(st.integers(0, 3))):
        left = max(room // math.prod([max(n, 1), *(max(size, 1) for size in spatial)]), 1)
        spatial.append(draw(st.one_of(st.integers(smallest, min(left, 5)), st.integers(1, left))))
    return (n, channels, *spatial)


def _values(draw: st.DrawFn, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Another mean, another size, and a channel that is constant."""
    largest = LARGEST_MEAN[dtype]
    x = x + draw(st.sampled_from([0.0, 0.0, 1.0, -largest / 30, largest]))
    tiny = [1e-4, 1e-30, 1e-42] if dtype in (torch.float32, torch.float64) else [1e-4]
    huge = [100.0] if dtype == torch.float16 else [100.0, 1e6]
    x = x * draw(st.sampled_from([1.0, 1.0, *tiny, *huge]))
    if draw(st.integers(0, 4)) == 0:
        x = x.index_fill(1, torch.tensor([0]), draw(st.sampled_from([0.0, 3.7, -100.0])))
    return x.to(dtype)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any of them that has a well-defined answer: more than one value per channel where they are normalized by."""
    shape = draw(shapes())
    training = draw(st.booleans()) and math.prod(shape) > shape[1]
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, *LOW]))
    p = problem(
        shape,
        torch.float64,
        activation=draw(st.sampled_from([None, None, *ACTIVATIONS])),
        residual=draw(st.booleans()),
        training=training,
        parameters=draw(st.sampled_from([torch.float32, torch.float64])) if dtype not in LOW
        else draw(st.sampled_from([torch.float32, dtype])),
        seed=draw(st.integers(0, 2**31)),
    )  # fmt: skip
    if dtype == torch.float64:
        p = p._replace(scale=p.scale.double(), shift=p.shift.double(), mean=p.mean.double(), var=p.var.double())
    x = _values(draw, p.x, dtype)
    along = [axis for axis in range(x.dim()) if axis != 1]
    mean = (x.double().mean(along) + 0.1 * p.mean.double()).to(p.mean.dtype)
    var = (x.double().var(along, correction=0) + 0.1).to(p.var.dtype)
    residual = p.residual
    if residual is not None:
        residual = STRIDES[draw(st.sampled_from(sorted(STRIDES)))](residual.to(dtype))
    x = STRIDES[draw(st.sampled_from(sorted(STRIDES)))](x)
    if draw(st.integers(0, 9)) == 0 and (not training or math.prod(shape[2:]) > 1):
        x = _shared(x)
    return p._replace(x=x, residual=residual, mean=mean, var=var)


@SETTINGS
@given(problems())
def test_any_problem(p: Problem) -> None:
    assert assert_agrees(p, COMPILED) == 1


@FEW
@given(shapes(), st.data())
def test_what_is_not_a_number_goes_where_the_reference_lets_it(shape: tuple[int, ...], data: st.DataObject) -> None:
    """One value that is NaN or infinite spoils its channel when training, itself otherwise, and nothing beside."""
    training = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    activation = data.draw(st.sampled_from([None, *ACTIVATIONS]))
    layout = data.draw(st.sampled_from(["contiguous", "channels last"]))
    p = problem(
        shape, dtype, training=training, activation=activation, layout=layout, residual=data.draw(st.booleans())
    )
    x = p.x.clone()
    at = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    x[at] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    y = COMPILED["cpu"](p._replace(x=x), _plain(p, x)).y
    arguments = (array(p.scale), array(p.shift), p.eps)
    options = {"activation": p.activation, "residual": None if p.residual is None else array(p.residual)}
    if training:
        right, _ = reference.forward_batch(array(x), *arguments, **options)  # type: ignore[arg-type]  # str and array
    else:
        right = reference.forward_fixed(array(x), array(p.mean), array(p.var), *arguments, **options)  # type: ignore[arg-type]  # str and array
    np.testing.assert_allclose(array(y), right, rtol=0.05, atol=0.05, equal_nan=True)


def _plain(p: Problem, x: Tensor):  # type: ignore[no-untyped-def]  # the tuple of another test
    from tests.kernels.test_agreement import Inputs

    return Inputs(x, p.scale, p.shift, p.residual)


@pytest.mark.parametrize("dtype", LARGEST_MEAN, ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0), (0, 3, 5), (4, 0, 5), (4, 3, 0), (2, 3, 0, 4), (0, 3, 2, 2)])
def test_nothing_in_nothing_out(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.zeros(shape, dtype=dtype, requires_grad=True)
    for mean, var in ((None, None), (torch.zeros(shape[1]), torch.ones(shape[1]))):
        y, *_ = cpu.forward(x, None, None, None, None, mean, var, 1e-5, "relu", False)
        assert y.shape == x.shape
        y.sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_a_part_of_a_vector_says_nothing_beside_the_values_in_it(activation: str | None) -> None:
    """A constant channel so large that 0 in its place, which fills a vector up, would normalize to infinity."""
    x = torch.full((2, 3, 5), 1e37, requires_grad=True)
    shift = torch.full((3,), 0.5, requires_grad=True)
    y, *_ = cpu.forward(x, None, None, None, shift, None, None, 1e-5, activation, False)
    y.sum().backward()
    right = reference.backward_batch(np.ones(x.shape), array(x), None, array(shift), 1e-5, activation=activation)
    assert shift.grad is not None
    np.testing.assert_allclose(shift.grad.numpy(), right.shift, rtol=1e-5)


@pytest.mark.parametrize("spatial", [2, 3, 5, 17])
def test_many_short_runs_are_summed_as_exactly_as_one_long(spatial: int) -> None:
    """Of a vector only the first lanes are filled then, and the very first values are far from the mean."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((4096, 16, spatial), generator=draw)
    x[0] += 4
    _, mean, var, _ = cpu.forward(x, None, None, None, None, None, None, 1e-5, None, False)
    wide = x.double().transpose(0, 1).reshape(16, -1)
    assert (mean - wide.mean(1)).abs().max() < 4e-7
    assert (var - wide.var(1, correction=0)).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_every_number_of_two_bytes_comes_through(dtype: torch.dtype) -> None:
    """Both directions of the conversion to float32, for all 65536 of them and at every remainder of a vector.

    The processor's own instruction for bfloat16 writes what is subnormal, below 1.2e-38, as 0.
    """
    flushes = dtype is torch.bfloat16 and cpu.instruction_set() == "avx512_bf16"

    def written(values: torch.Tensor) -> torch.Tensor:
        values = values.nan_to_num(0)
        return values.where(values.abs() >= torch.finfo(dtype).tiny, 0) if flushes else values

    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    x = torch.cat([every, every[:7]]).reshape(1, 1, -1)
    mean, var = torch.zeros(1), torch.ones(1)
    y, *_ = cpu.forward(x, None, None, None, None, mean, var, 0.0, None, False)
    assert torch.equal(y.isnan(), x.isnan())
    assert torch.equal(y.nan_to_num(0), written(x))
    # A sum needs all digits of float32, so that it is rounded: to nearest, ties to even.
    other = x.flip(-1)
    y, *_ = cpu.forward(x, other, None, None, None, mean, var, 0.0, None, False)
    right = (x.float() + other.float()).to(dtype)
    assert torch.equal(y.nan_to_num(0), written(right))
    assert torch.equal(y.isnan(), right.isnan())
