"""Everything that the kernels allocate is filled with what must not count, between edges that nobody may write to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from normwise.kernels.activation_numbers import number_of
from normwise.kernels.triton_gpu import launch
from tests.cases import LAYOUTS
from tests.kernels.test_agreement import dtype_name
from tests.kernels.triton_gpu.cut import CUTS, cut
from tests.kernels.triton_gpu.device import DEVICE

__all__ = ["cut"]

EDGE, RELU = 64, number_of("relu")
PLACES = [((3, 3, 11), "contiguous"), ((3, 3, 11), "channels last"), ((9, 21), "contiguous")]
# Whether the statistics are the batch's own, and the gradients of x and of the residual are wanted.
FLAGS = [(True, True, True), (True, True, False), (True, False, True), (False, True, True), (False, False, False)]
FULL = torch.full


class Filled:
    """Memory in the place of ``torch.empty``, ``torch.empty_like`` and ``Tensor.new_empty``."""

    def __init__(self, floats: float, integers: int) -> None:
        self.fill, self.blocks = {True: floats, False: integers}, list[Tensor]()

    def empty(self, *size: Any, dtype: torch.dtype, device: Any = DEVICE) -> Tensor:
        """Stand for ``torch.empty``."""
        shape = torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        return self._block(shape.numel(), dtype, device)[EDGE:-EDGE].view(shape)

    def like(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Stand for ``torch.empty_like`` of a dense tensor."""
        return self._block(x.numel(), dtype or x.dtype, x.device).as_strided(x.shape, x.stride(), EDGE)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Allocate by it."""

        real = Tensor.new_empty

        def new(x: Tensor, *size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
            if device is not None:  # the interpreter, which then lets it be a view of another one's memory
                return real(x, *size, dtype=dtype, device=device)
            return self.empty(*size, dtype=dtype or x.dtype, device=x.device)

        monkeypatch.setattr(torch, "empty", self.empty)
        monkeypatch.setattr(torch, "empty_like", self.like)
        monkeypatch.setattr(Tensor, "new_empty", new)

    def _block(self, values: int, dtype: torch.dtype, device: Any) -> Tensor:
        block = FULL((values + 2 * EDGE,), self.fill[dtype.is_floating_point], dtype=dtype, device=device)
        block[:EDGE] = block[-EDGE:] = 77
        self.blocks.append(block)
        return block

    def assert_edges(self) -> None:
        """Nothing was written beside any of it."""
        for block in self.blocks:
            assert bool((block[:EDGE] == 77).all())
            assert bool((block[-EDGE:] == 77).all())


def everything(
    x: Tensor, residual: Tensor, mask: Tensor | None, parameters: tuple[Tensor, Tensor], dy: Tensor
) -> list[Tensor]:
    """All that the kernels give: of batch and running statistics, of bits and of a residual that was kept."""
    y, mean, var, bits = launch.forward(x, residual, mask, *parameters, None, None, 1e-5, RELU, True)
    found = [y, mean, var, bits, *launch.moments(x, mask)]
    for flags in FLAGS:
        found += launch.backward(dy, x, None, mask, parameters[0], None, mean, var, bits, 1e-5, RELU, *flags)
    silu = number_of("silu")
    y, mean, var, none = launch.forward(x, residual, mask, None, None, mean, var, 1e-5, silu, False)
    gradients = launch.backward(dy, x, residual, mask, None, None, mean, var, none, 1e-5, silu, True, True, True)
    return [*found, y, *gradients]


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)
@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize(("shape", "layout"), PLACES, ids=str)
def test_no_result_depends_on_what_was_in_memory_and_nothing_is_written_beside_it(
    shape: tuple[int, ...],
    layout: str,
    masked: bool,
    dtype: torch.dtype,
    how: str,
    cut: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs, statistics, bits and partial results; each output has no NaN, so that all of it was written."""
    cut(how)
    draw = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=draw).to(dtype) for _ in range(3)]
    x, residual, dy = (LAYOUTS[layout](tensor).to(DEVICE) for tensor in drawn)
    mask = (torch.rand(shape[0], 1, *shape[2:], generator=draw) < 0.6).to(DEVICE) if masked else None
    scale, shift = (torch.rand(shape[1], generator=draw).to(DEVICE) for _ in range(2))
    results = []
    for fill in (Filled(math.nan, 255), Filled(1e3, 0)):
        with monkeypatch.context() as patched:
            fill.use(patched)
            results.append(everything(x, residual, mask, (scale, shift), dy))
        fill.assert_edges()
        assert len(fill.blocks) >= len(results[0])
    for one, other in zip(*results, strict=True):
        assert not one.isnan().any()
        assert torch.equal(one, other)


@pytest.mark.parametrize("broken", ["y", "bits", "partial results"])
def test_the_test_sees_memory_that_was_not_written(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of memory comes from one of the three functions: what a kernel left unwritten there would be seen."""
    fill = Filled(math.nan, 255)
    fill.use(monkeypatch)
    x = torch.zeros(2, 3, 4, device=DEVICE)
    made = {
        "y": lambda: torch.empty_like(x),
        "bits": lambda: x.new_empty(5, dtype=torch.uint8),
        "partial results": lambda: torch.empty(4, 2, 3, dtype=torch.float32, device=x.device),
    }[broken]()
    assert bool((made == 255).all() if broken == "bits" else made.isnan().all())
