"""Problems for the compiled kernels that nobody thought of, as strategies for hypothesis.

Sizes lie around those at which a kernel does something else: the lanes of a vector, the vectors that are added up
before the sums go to double, the rows of a chunk, a page, what is done on one thread, what is written past the caches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.cases import LAYOUTS, Problem, problem
from tests.kernels.test_agreement import ACTIVATIONS

LOW = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *LOW)
MOST = 20_000  # elements: the reference is not made for speed
FAR = {
    torch.float32: 1e4,
    torch.float64: 1e7,
    torch.bfloat16: 16.0,
    torch.float16: 64.0,
}  # the largest mean, in spreads
CHANNELS = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 520]
RUNS = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 49, 63, 64, 65, 127, 128, 129, 196, 1023, 1024, 1025]
LONG_RUNS = [2047, 2048, 2049, 4095, 4096, 4097, 4113, 8191, 8192, 8193]  # of 128 and 256 vectors, and of 4096 rows
STREAMED = 12 << 20  # bytes


def _at_offset(x: Tensor, offset: int) -> Tensor:
    """The same, dense as before, at an address that is so many values beyond an aligned one; around it is NaN."""
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda axis: (-strides[axis], axis))
    flat = x.new_full((x.numel() + offset + 1,), math.nan)
    view = flat[offset : offset + x.numel()].view([x.shape[axis] for axis in order])
    moved = view.permute([order.index(axis) for axis in range(x.dim())])
    return moved.copy_(x)


def _cut(x: Tensor) -> Tensor:
    """A slice of a longer last axis, which starts at an odd address."""
    longer = x.new_full((*x.shape[:-1], x.shape[-1] + 3), math.nan)
    longer[..., 1:-2] = x
    return longer[..., 1:-2]


LAID: dict[str, Callable[[Tensor], Tensor]] = {
    **LAYOUTS,
    "cut": _cut,
    "contiguous, at an odd address": lambda x: _at_offset(x.contiguous(), 1),
    "contiguous, seven values on": lambda x: _at_offset(x.contiguous(), 7),
    "channels last, at an odd address": lambda x: _at_offset(LAYOUTS["channels last"](x), 3),
}
USUAL = ["contiguous", "channels last", "contiguous, at an odd address", "channels last, at an odd address"]


class Asked(NamedTuple):
    """A problem, and what is wanted of it."""

    problem: Problem
    scaled: bool
    shifted: bool
    wants_x: bool
    wants_residual: bool
    keeps_bits: bool  # where there is a choice
    threads: int  # the kernels split the work by it; small tensors are still done on one
    dy_layout: str
    poison: float  # what stands where the mask is False


@st.composite
def shapes(draw: st.DrawFn, smallest: int = 1, most: int = MOST) -> tuple[int, ...]:
    """(N, C, *spatial) with up to three spatial axes."""
    kind = draw(st.sampled_from(["any", "any", "vectors", "long", "rows"]))
    if kind == "vectors":
        channels, run = draw(st.sampled_from(CHANNELS)), draw(st.sampled_from(RUNS))
        run = max(min(run, most // channels), 1)
        return draw(_split(draw(st.integers(smallest, min(9, max(most // (channels * run), 1)))), channels, run))
    if kind == "long":  # channels first: the sums of a channel go through several stages
        run = draw(st.sampled_from(LONG_RUNS))
        channels = draw(st.integers(1, max(most // run // 2, 1)))
        return draw(_split(draw(st.integers(1, max(most // (run * channels), 1))), channels, run))
    if kind == "rows":  # channels last: the same for rows
        rows = draw(st.sampled_from([63, 64, 65, 127, 128, 129, *LONG_RUNS]))
        fitting = [channels for channels in CHANNELS if channels * rows <= most]
        n = draw(st.sampled_from([divisor for divisor in range(1, 18) if rows % divisor == 0]))
        return draw(_split(n, draw(st.sampled_from(fitting)), rows // n))
    channels = draw(st.one_of(st.integers(smallest, 9), st.integers(1, 300)))
    room = most // max(channels, 1)
    n = draw(st.one_of(st.integers(smallest, 5), st.integers(1, min(room, 10_000))))
    spatial: list[int] = []
    for _ in range(draw(st.integers(0, 3))):
        left = max(room // math.prod([max(n, 1), *(max(size, 1) for size in spatial)]), 1)
        spatial.append(draw(st.one_of(st.integers(smallest, min(left, 5)), st.integers(1, left))))
    return (n, channels, *spatial)


@st.composite
def _split(draw: st.DrawFn, n: int, channels: int, run: int) -> tuple[int, ...]:
    """The shape of as many values in a run, as up to three spatial axes; none where it is one value."""
    spatial = []
    for _ in range(draw(st.integers(0 if run == 1 else 1, 3)) - 1):
        size = draw(st.sampled_from([size for size in (1, 2, 3, 4, 5, 7, 8, 16) if run % size == 0]))
        spatial.append(size)
        run //= size
    return (n, channels, *spatial) if run == 1 else (n, channels, *spatial, run)


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """(N or 1, 1, *spatial or 1): from nothing that counts to everything, and with whole samples that do not."""
    size = [1 if axis == 1 or draw(st.integers(0, 4)) == 0 else length for axis, length in enumerate(shape)]
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    counting = torch.rand(size, generator=numbers) < draw(st.sampled_from([0.0, 0.02, 0.3, 0.7, 0.97, 1.0]))
    blank = draw(st.integers(0, size[0]))
    counting[:blank] &= draw(st.integers(0, 3)) > 0  # the samples that the sums start with
    if len(shape) > 2 and draw(st.booleans()):  # padding at the end
        counting[..., draw(st.integers(0, size[-1])) :] = False
    return counting


def values_that_count(shape: tuple[int, ...], mask: Tensor | None) -> int:
    """The number of values that count, per channel."""
    values = math.prod(shape) // shape[1]
    return values if mask is None else int(mask.sum()) * (values // mask.numel())


def _values(draw: st.DrawFn, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Another mean, another size, and a channel that is constant."""
    far = FAR[dtype]
    x = x + draw(st.sampled_from([0.0, 0.0, 1.0, -far / 30, far]))
    tiny = [1e-4, 1e-30, 1e-42] if dtype in (torch.float32, torch.float64) else [1e-4]
    huge = [100.0] if dtype == torch.float16 else [100.0, 1e6]
    x = x * draw(st.sampled_from([1.0, 1.0, *tiny, *huge]))
    if draw(st.integers(0, 4)) == 0:
        x = x.index_fill(1, torch.tensor([0]), draw(st.sampled_from([0.0, 3.7, -100.0])))
    return x.to(dtype)


@st.composite
def problems(draw: st.DrawFn, of_shape: st.SearchStrategy[tuple[int, ...]] | None = None) -> Problem:
    """Any with a well-defined answer: by the batch only where more than one value counts, or by a mask none or one."""
    shape = draw(shapes() if of_shape is None else of_shape)
    mask = draw(masks(shape)) if draw(st.integers(0, 2)) == 0 else None
    training = draw(st.booleans()) and (mask is not None or values_that_count(shape, None) > 1)
    dtype = draw(st.sampled_from([torch.float32, *DTYPES]))
    p = problem(
        shape,
        torch.float64,
        activation=draw(st.sampled_from([None, None, "relu", *ACTIVATIONS])),
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
    layouts = st.sampled_from([*USUAL, *sorted(LAID)])
    residual = p.residual
    if residual is not None:
        residual = LAID[draw(layouts)](residual.to(dtype))
    x = LAID[draw(layouts)](x)
    if draw(st.integers(0, 9)) == 0 and (not training or math.prod(shape[2:]) > 1):
        x = x[:1].expand(x.shape)  # one sample for all: stride 0
    return p._replace(x=x, residual=residual, mask=mask, mean=mean, var=var)


@st.composite
def asked(draw: st.DrawFn, of_problem: st.SearchStrategy[Problem] | None = None) -> Asked:
    """A problem and a call for it."""
    p = draw(problems() if of_problem is None else of_problem)
    scaled, shifted = (draw(st.integers(0, 3)) > 0 for _ in range(2))
    if not scaled:
        p = p._replace(scale=torch.ones_like(p.scale))
    if not shifted:
        p = p._replace(shift=torch.zeros_like(p.shift))
    return Asked(
        p,
        scaled,
        shifted,
        wants_x=draw(st.integers(0, 3)) > 0,
        wants_residual=p.residual is not None and draw(st.booleans()),
        keeps_bits=draw(st.integers(0, 3)) > 0,
        threads=draw(st.sampled_from([1, 1, 2, 3, 8])),
        dy_layout=draw(st.sampled_from([*USUAL, "reversed", "cut"])),
        poison=draw(st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e30])),
    )


@st.composite
def streamed_shapes(draw: st.DrawFn, dtype: torch.dtype) -> tuple[int, ...]:
    """Just large enough for the output to be written past the caches, and a little larger or smaller."""
    elements = STREAMED // dtype.itemsize
    channels = draw(st.sampled_from([4, 16, 32, 64, 512]))
    n = draw(st.integers(1, 6))
    run = elements // channels // n + draw(st.sampled_from([-32, 0, 8, 64, 96]))
    return (n, channels, run // 32 * 32 + draw(st.sampled_from([0, 0, 32, 33])))
