"""One launch in which the last program does the second sweep: its counters, its order, and that it is taken at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from normwise.kernels.activation_numbers import number_of
from normwise.kernels.triton_gpu import counters, launch
from normwise.kernels.triton_gpu.plan import MOST_COUNTERS, Device, Settings
from tests.cases import LAYOUTS
from tests.kernels.triton_gpu.cut import cut
from tests.kernels.triton_gpu.device import DEVICE

__all__ = ["cut"]

RELU = number_of("relu")
SHAPES = {
    "images": (5, 3, 4, 9),
    "one channel": (7, 1, 5, 5),
    "one sample": (1, 2, 90),
    "one value": (1, 3, 1),
    "features": (67, 9),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def both(x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """Everything that a forward and backward give."""
    y, mean, var, bits = launch.forward(x, x, None, None, None, None, None, 1e-5, RELU, True)
    return (
        y,
        mean,
        var,
        bits,
        *launch.backward(dy, x, None, None, None, None, mean, var, bits, 1e-5, RELU, *[True] * 3),
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_launch_gives_what_two_give(shape: str, layout: str, cut: Callable[[str], None]) -> None:
    """The parts are the same, and put together in the same order; the counters are 0 again."""
    x, dy = (LAYOUTS[layout](drawn(*SHAPES[shape], seed=seed)) for seed in (0, 1))
    cut("two launches")
    two = both(x, dy)
    cut("by the last one")
    one, again = both(x, dy), both(x, dy)
    for found, right, repeated in zip(one, two, again, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
        assert torch.equal(found, repeated)
    assert not counters.counters(x).any()


def test_it_is_taken_in_both_directions(cut: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    cut("by the last one")
    taken: list[str] = []

    class Spy:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(launch, name)

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            taken.append(self.name)
            assert grid[1] > 1
            return self.kernel[grid]

    for name in ("normalize_by_last", "gradients_by_last", "gather", "sum_gradients"):
        monkeypatch.setattr(launch, name, Spy(name))
    both(drawn(5, 3, 4, 9), drawn(5, 3, 4, 9, seed=1))
    assert taken == ["normalize_by_last", "gradients_by_last"]


def test_counters_are_kept_for_the_stream_and_made_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that ``torch.compile`` lets allocate from a graph's pool leaves nothing there."""
    made: list[bool] = []
    zeros = torch.zeros

    def watched(*size: int, **how: Any) -> Tensor:
        made.append(threading.current_thread() is threading.main_thread())
        return zeros(*size, **how)

    monkeypatch.setattr(counters, "_KEPT", {})
    monkeypatch.setattr(torch, "zeros", watched)
    x = drawn(2, 2)
    first = counters.counters(x)
    assert first is counters.counters(x)
    assert (first.shape, first.dtype, made) == ((MOST_COUNTERS,), torch.int32, [False])


def test_no_more_groups_than_counters() -> None:
    from normwise.kernels.triton_gpu.plan import plan, view_of

    h200 = Device("NVIDIA H200", 132, 60 << 20)
    many = view_of((300, MOST_COUNTERS + 1, 3), 2, last=False)
    assert not plan(many, h200, Settings(held=0), streams=1).by_last
    assert plan(many._replace(channels=MOST_COUNTERS), h200, Settings(held=0), streams=1).by_last
