"""The case of one row of the table: a shape, its layout in memory, the computation, and the tensors for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from benchmarks.shapes import Shape

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
LAYOUTS = ("first", "last")
OPERATIONS = ("bn", "bn+relu", "bn+add+relu")
PASSES = ("forward", "forward+backward", "inference")
EPS = 1e-5
MOMENTUM = 0.1


@dataclass(frozen=True)
class Case:
    """One row: ``layout`` says where the channels are in memory, ``phase`` is one of ``PASSES``."""

    shape: Shape
    dtype: str
    layout: str
    operation: str
    phase: str
    memory: str

    @property
    def name(self) -> str:
        """The text that ``--only`` looks in."""
        parts = (self.shape.network, self.shape.name, self.dtype, f"channels {self.layout}", self.operation)
        return ", ".join((*parts, self.phase, self.memory))

    @property
    def adds(self) -> bool:
        return "add" in self.operation

    @property
    def activation(self) -> str | None:
        return "relu" if "relu" in self.operation else None

    @property
    def weight(self) -> int:
        """The number of layers of its network that the row stands for."""
        return self.shape.adding if self.adds else self.shape.count

    @property
    def bytes(self) -> int:
        """T: the bytes of one activation tensor."""
        size: int = DTYPES[self.dtype].itemsize
        return self.shape.elements * size


@dataclass(frozen=True)
class Inputs:
    """The tensors of a call; all but the running statistics and ``dy`` want a gradient."""

    x: Tensor
    residual: Tensor | None
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    dy: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.x, self.weight, self.bias, self.residual) if t is not None)


def cases(
    shapes: Sequence[Shape],
    *,
    dtypes: Sequence[str],
    layouts: Sequence[str],
    operations: Sequence[str],
    phases: Sequence[str],
    memories: Sequence[str],
    only: str = "",
) -> Iterator[Case]:
    """All rows of that selection; an addition only where the network has one."""
    for memory, shape, *rest in product(memories, shapes, dtypes, layouts, operations, phases):
        dtype, layout, operation, phase = rest
        case = Case(shape, dtype, layout, operation, phase, memory)
        if layout in shape.layouts and case.weight and only in case.name:
            yield case


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in that layout, dense."""
    if layout == "first" or x.dim() == 2:
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def inputs(case: Case, *, ratio: float = 0.0, seed: int = 0) -> Inputs:
    """Normal values with |mean| / std = ratio; parameters and statistics in float32, as mixed precision has them.

    The same tensors for the rows of a shape that follow each other; the running statistics change with every call.
    """
    return _inputs(replace(case, operation="bn+add" if case.adds else "bn", phase="", memory=""), ratio, seed)


@lru_cache(maxsize=1)
def _inputs(case: Case, ratio: float, seed: int) -> Inputs:
    draw = torch.Generator().manual_seed(seed)
    dtype = DTYPES[case.dtype]
    kept = torch.promote_types(dtype, torch.float32)

    def normal(*size: int, shift: float = 0.0) -> Tensor:
        return torch.randn(size, generator=draw).add_(shift)

    def activations(shift: float = 0.0) -> Tensor:
        return laid_out(normal(*case.shape.size, shift=shift).to(dtype), case.layout)

    channels = case.shape.size[1]
    return Inputs(
        x=activations(ratio).requires_grad_(),
        residual=activations().requires_grad_() if case.adds else None,
        weight=(1 + 0.5 * normal(channels)).to(kept).requires_grad_(),
        bias=normal(channels).to(kept).requires_grad_(),
        mean=(ratio + 0.1 * normal(channels)).to(kept),
        var=(0.5 + torch.rand(channels, generator=draw)).to(kept),
        dy=activations(),
    )
