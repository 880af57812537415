"""The compiled kernels on inputs that nobody thought of, against the reference at the tolerances of every other test.

``NORMWISE_EXAMPLES=100000`` tries so many instead of a few hundred, and other ones on every run; ``NORMWISE_ISA=avx2``
does so with another instruction set.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import normwise.torch  # noqa: F401  gives the operators their gradients
from normwise.kernels import cpu, reference
from tests.cases import F64, LARGEST_MEAN, Problem, allowed, array, law, problem
from tests.kernels.random_problems import DTYPES, LAID, LOW, Asked, asked, masks, problems, shapes, streamed_shapes
from tests.kernels.random_problems import values_that_count as counting
from tests.kernels.test_agreement import ACTIVATIONS, assert_statistics
from tests.tolerances import wide, worst

if cpu.library is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

EXAMPLES = os.environ.get("NORMWISE_EXAMPLES")


SETTINGS = settings(
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    # A problem is drawn from a few numbers; what is thrown away or slow is the reference's doing.
    suppress_health_check=list(HealthCheck),
)


def some(share: float, otherwise: int, *, phases: tuple[Phase, ...] = tuple(Phase)) -> settings:
    """This share of the examples that the environment asks for, or so many."""
    number = max(int(float(EXAMPLES) * share), 1) if EXAMPLES else otherwise
    return settings(SETTINGS, max_examples=number, phases=phases)


@pytest.fixture(autouse=True, scope="module")
def _same_number_of_threads_afterwards() -> Iterator[None]:
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


def poison(tensor: Tensor | None, mask: Tensor | None, value: float) -> None:
    """Write this wherever the mask is False, except where one number in memory stands for several."""
    several_in_one = tensor is not None and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    if tensor is not None and mask is not None and not several_in_one:
        tensor.masked_fill_(~mask, torch.tensor(value).to(tensor.dtype))


def leaf(tensor: Tensor, wanted: bool = True) -> Tensor:
    return tensor.detach().requires_grad_(wanted)


def same(tensor: Tensor, copy: Tensor) -> bool:
    return bool(((tensor == copy) | (tensor.isnan() & copy.isnan())).all())


def of_channels(p: Problem, channels: list[int]) -> Problem:
    """The problem that these channels are: no channel has to do with another."""
    return p._replace(
        x=p.x[:, channels],
        residual=None if p.residual is None else p.residual[:, channels],
        **{name: getattr(p, name)[channels] for name in ("scale", "shift", "mean", "var")},
    )


def by_channel(p: Problem) -> Problem:
    """The same with a channel's values side by side, which NumPy then adds up by halves.

    Of a constant channel, a plain sum of n float64 values is off by up to n of their roundings, all on one side.
    """
    return p._replace(x=p.x.transpose(0, 1).contiguous().transpose(0, 1))


def assert_done_right(a: Asked, channels: list[int] | None = None) -> None:
    """The output, the statistics and every gradient that is wanted are the reference's, and no other is there.

    Where channels are given, only these are compared: of a large problem, the reference would take all the time.
    """
    p = a.problem
    compared = p if channels is None else of_channels(p, channels)
    at = slice(None) if channels is None else channels
    said, part_of_dy = law(by_channel(compared))
    kept = None if p.training else wide(p.scale.dtype) if p.scale.dtype != p.x.dtype else p.x.dtype
    bound = allowed(compared, said, part_of_dy, kept=kept)
    dy = torch.ones_like(p.x, memory_format=torch.contiguous_format)
    dy[:, at] = part_of_dy
    dy = LAID[a.dy_layout](dy)
    for tensor in (p.x, p.residual, dy):
        poison(tensor, p.mask, a.poison)
    torch.set_num_threads(a.threads)
    x = leaf(p.x if cpu.serves(p.x) else p.x.contiguous(), a.wants_x)
    residual = None if p.residual is None else leaf(p.residual, a.wants_residual)
    scale, shift = leaf(p.scale) if a.scaled else None, leaf(p.shift) if a.shifted else None
    given = [tensor for tensor in (x, residual, dy) if tensor is not None]
    before = [tensor.detach().clone() for tensor in given]
    keeps_bits = residual is not None and p.activation in cpu.ONE_BIT and a.keeps_bits
    mean, var = (None, None) if p.training else (p.mean, p.var)
    y, *moments, _ = cpu.forward(x, residual, p.mask, scale, shift, mean, var, p.eps, p.activation, keeps_bits)
    assert y.dtype == p.x.dtype
    if y.requires_grad:
        y.backward(dy)
    assert all(same(tensor, copy) for tensor, copy in zip(given, before, strict=True)), "an input was changed"
    assert (x.grad is not None) == a.wants_x
    assert residual is None or (residual.grad is not None) == a.wants_residual

    assert_near("y", y[:, at], said.y, bound.y)
    for name, tensor in (("x", x), ("residual", residual)):
        if tensor is not None and tensor.grad is not None:
            assert_near(
                f"the gradient of {name}", tensor.grad[:, at], getattr(said.gradients, name), getattr(bound, name)
            )
    for name, tensor in (("scale", scale), ("shift", shift)):
        if tensor is not None and tensor.grad is not None:
            assert_near(f"the gradient of {name}", tensor.grad[at], getattr(said.gradients, name), getattr(bound, name))
    if p.training:
        assert_statistics(compared, (moments[0][at], moments[1][at]), (said.batch.mean, said.batch.var), "cpu")


def assert_near(what: str, found: Tensor, right: F64, bound: F64) -> None:
    """Assert that values are as near to the reference as rounding explains."""
    share = worst(found, right, bound)
    assert share <= 1, f"{what} is off by {share:.3g} times what rounding explains"


@some(1, 400)
@given(asked())
def test_any_problem(a: Asked) -> None:
    assert_done_right(a)


@some(0.02, 12)
@given(asked(problems(shapes(most=200_000))))
def test_any_problem_for_several_threads(a: Asked) -> None:
    """More than 65536 elements, some of them: what is smaller is done on one."""
    assert_done_right(a)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@some(0.0005, 1, phases=(Phase.generate,))  # a smaller one would be none of them
@given(st.data())
def test_any_problem_whose_outputs_are_written_past_the_caches(
    dtype: torch.dtype, layout: str, data: st.DataObject
) -> None:
    shape = data.draw(streamed_shapes(dtype))
    options = {"activation": data.draw(st.sampled_from([None, "relu"])), "residual": data.draw(st.booleans())}
    p = problem(shape, dtype, layout=layout, training=data.draw(st.booleans()), seed=1, **options)  # type: ignore[arg-type]  # str and bool
    if data.draw(st.integers(0, 3)) == 0:
        p = p._replace(mask=data.draw(masks(shape)))
    channels = {0, shape[1] - 1, *data.draw(st.lists(st.integers(0, shape[1] - 1), max_size=6))}
    assert_done_right(data.draw(asked(st.just(p))), sorted(channels))


def test_most_of_them_run_through_what_they_are_meant_to_find_mistakes_in() -> None:
    """Of the problems that are tried by default."""
    seen: list[Asked] = []

    @settings(SETTINGS, max_examples=400, derandomize=True)
    @given(asked())
    def look(a: Asked) -> None:
        seen.append(a)

    look()
    last = [a for a in seen if a.problem.x.dim() > 2 and a.problem.x.stride(1) == 1 < a.problem.x.shape[1]]
    masked = [a for a in seen if a.problem.mask is not None]
    bits = [a for a in seen if a.problem.residual is not None and a.problem.activation in cpu.ONE_BIT and a.keeps_bits]
    odd = [a for a in seen if cpu.serves(a.problem.x) and a.problem.x.data_ptr() % 64]
    for found in (
        last,
        masked,
        odd,
        bits,
        [a for a in seen if a.problem.training],
        [a for a in masked if a.problem.training],
    ):
        assert len(found) >= len(seen) / 50
    assert {a.problem.x.dtype for a in seen} == {*DTYPES}
    assert {a.problem.activation for a in seen} == {None, *ACTIVATIONS}
    assert {a.problem.x.dim() for a in seen} == {2, 3, 4, 5}
    assert any(counting(a.problem.x.shape, a.problem.mask) == 0 for a in masked)


@some(0.3, 200)
@given(shapes(), st.data())
def test_what_is_not_a_number_goes_where_the_reference_lets_it(shape: tuple[int, ...], data: st.DataObject) -> None:
    """One value that is NaN or infinite spoils its channel when training, itself otherwise, and nothing beside."""
    training = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from(DTYPES))
    activation = data.draw(st.sampled_from([None, *ACTIVATIONS]))
    layout = data.draw(st.sampled_from(["contiguous", "channels last"]))
    p = problem(
        shape, dtype, training=training, activation=activation, layout=layout, residual=data.draw(st.booleans())
    )
    clean, dy = law(p)
    bound = allowed(p, clean, dy, kept=None if training else p.scale.dtype)
    x = p.x.clone()
    at = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    x[at] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    leaves = [leaf(x), leaf(p.scale), leaf(p.shift)]
    keeps_bits = p.residual is not None and activation in cpu.ONE_BIT
    mean, var = (None, None) if training else (p.mean, p.var)
    y, *_ = cpu.forward(leaves[0], p.residual, None, leaves[1], leaves[2], mean, var, p.eps, activation, keeps_bits)
    y.backward(dy)
    np.testing.assert_allclose(array(y), _forward(p, x), rtol=0.05, atol=0.05, equal_nan=True)
    # What is not spoiled is what it would be without it.
    spoiled = torch.zeros(shape, dtype=torch.bool)
    spoiled[:, at[1]] = True
    whole_channel = spoiled.clone()
    if not training:
        spoiled[:] = False
        spoiled[at] = True
    per_channel = torch.arange(shape[1]) == at[1]
    found = (y, *(tensor.grad for tensor in leaves))
    expected = (clean.y, clean.gradients.x, clean.gradients.scale, clean.gradients.shift)
    for number, (tensor, right, limit, out) in enumerate(
        zip(found, expected, bound[:4], (spoiled, spoiled, per_channel, per_channel), strict=True)
    ):
        assert tensor is not None
        if number == 1 and not training:
            continue  # the next test
        assert_near(str(number), tensor.detach().masked_fill(out, 0), np.where(out, 0, right), limit)
    if training:
        assert leaves[0].grad is not None
        assert leaves[0].grad[whole_channel].isnan().all()


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_with_statistics_given_what_is_not_a_number_leaves_the_gradients_beside_it_alone(
    value: float, layout: str
) -> None:
    """As PyTorch's own operator does: the statistics are constants, so that no value has to do with another."""
    x = LAID[layout](torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)))
    x[0, 1, 2] = value
    x.requires_grad_()
    y, *_ = cpu.forward(x, None, None, None, None, torch.zeros(3), torch.ones(3), 0.0, None, False)
    y.backward(torch.ones_like(x))
    assert x.grad is not None
    beside = torch.ones(2, 3, 5, dtype=torch.bool)
    beside[0, 1, 2] = False
    assert (x.grad[beside] == 1).all()


def _forward(p: Problem, x: Tensor) -> F64:
    arguments = (array(p.scale), array(p.shift), p.eps)
    residual = None if p.residual is None else array(p.residual)
    if p.training:
        return reference.forward_batch(array(x), *arguments, activation=p.activation, residual=residual)[0]
    return reference.forward_fixed(
        array(x), array(p.mean), array(p.var), *arguments, activation=p.activation, residual=residual
    )


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


def test_few_short_runs_are_summed_as_exactly_as_one_long() -> None:
    """All are in one chunk, which is summed about what came first: that has to be near the mean."""
    x = torch.randn((64, 512, 2), generator=torch.Generator().manual_seed(0))
    _, mean, var, _ = cpu.forward(x, None, None, None, None, None, None, 1e-5, None, False)
    wide = x.double().transpose(0, 1).reshape(512, -1)
    right = wide.var(1, correction=0)
    assert ((mean - wide.mean(1)).abs() / right.sqrt()).max() < 3e-7
    assert ((var - right).abs() / right).max() < 1e-6


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
