"""Launches on two streams at once, and a training step in a captured graph, by each path through the kernels.

Without a GPU the bodies run too, one launch after the other: what they compare is then right, and no more is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import normwise.torch as nt
from normwise.kernels import choose
from normwise.kernels.kernel import Call
from normwise.kernels.triton_gpu import counters, launch
from normwise.kernels.triton_gpu.layout import view
from normwise.kernels.triton_gpu.plan import plan
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch.steps.triton_operators import TritonGpu
from tests.cases import running
from tests.kernels.triton_gpu.cut import cut
from tests.kernels.triton_gpu.device import DEVICE
from tests.kernels.triton_gpu.graphs import captured, finish, on, stream

__all__ = ["cut"]

KERNEL = TritonGpu()
# By the path that a GPU takes in a forward: the last program to come does the second sweep, a channel stays in
# registers, and several launches. The interpreter gets little tensors, and is told to cut them so.
PATHS = {"by the last one": (32, 16, 28, 28), "one launch": (64, 64, 7, 7), "two launches": (32, 64, 28, 28)}
SHAPES = PATHS if DEVICE == "cuda" else dict.fromkeys(PATHS, (5, 2, 3, 9))
ROUNDS = 20 if DEVICE == "cuda" else 1


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, cut: Callable[[str], None]) -> str:
    """One of the paths, which the kernels then take."""
    name: str = request.param
    if DEVICE != "cuda":
        cut(name)
    return name


def drawn(shape: Sequence[int], seed: int = 0) -> Tensor:
    """Normal values, the same on every device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def learned(x: Tensor, residual: Tensor, dy: Tensor) -> list[Tensor]:
    """Output and gradients of the kernels, with one bit per element between them."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, residual)]
    y, batch = KERNEL.forward_batch(Call(leaves[0], activation="relu", residual=leaves[1]))
    return [y.detach(), batch.mean, batch.var, *torch.autograd.grad(y, leaves, dy)]


def test_each_shape_takes_its_path(path: str) -> None:
    x = drawn(SHAPES[path])
    device = launch.device_of(x.device)
    settings = vars(launch)["settings_for"](x, device)  # as the launches look them up
    how = plan(view(x), device, settings, streams=1)
    assert (how.held, how.by_last) == (path == "one launch", path == "by the last one")


def test_two_streams_at_once(path: str) -> None:
    """Each has what it has alone, to the bit; counters that they shared would let a sweep begin too early."""
    given = [[drawn(SHAPES[path], seed) for seed in range(3 * k, 3 * k + 3)] for k in range(3)]
    right = [learned(*each) for each in given]
    finish()
    streams = [None, stream(), stream()]
    found: list[list[list[Tensor]]] = [[], [], []]
    for _ in range(ROUNDS):
        for k, each in enumerate(streams):
            with on(each):
                found[k].append(learned(*given[k]))
    finish()
    for k in range(3):
        for again in found[k]:
            for one, other in zip(again, right[k], strict=True):
                assert torch.equal(one, other)


def test_the_counters_are_zero_again(path: str) -> None:
    x = drawn(SHAPES[path])
    learned(x, x, x)
    assert not counters.counters(x).any()


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_a_training_step_in_a_graph(path: str, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward and running statistics, replayed twice with other values, an eager call beside each replay."""
    monkeypatch.setattr(choose, "_ASKED", "triton")
    form: Any = torch.channels_last if last else torch.contiguous_format
    shape = SHAPES[path]
    layer = nt.BatchNorm2d(shape[1], activation="relu", device=DEVICE)
    x, residual, dy, other = (drawn(shape, seed).contiguous(memory_format=form) for seed in range(4))
    leaves = [x.requires_grad_(), residual.requires_grad_(), *layer.parameters()]

    def step() -> list[Tensor]:
        y = layer(x, residual)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    outputs, replay = captured(step)
    alone, beside = learned(other, other, dy), stream()
    for turn in range(2):
        with torch.no_grad():
            x.copy_(drawn(shape, 10 + turn) * 2 + turn)
            residual.copy_(drawn(shape, 20 + turn))
        before = [buffer.double().clone() for buffer in running(layer)]
        finish()
        replay()
        with on(beside):
            eager = learned(other, other, dy)
        finish()
        for one, right in zip(eager, alone, strict=True):
            assert torch.equal(one, right)
        wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
        y, batch = TWO_PASS.forward_batch(Call(wide[0], None, None, None, wide[2], wide[3], 1e-5, "relu", wide[1]))
        for found, right in zip(outputs, (y, *torch.autograd.grad(y, wide, dy.double())), strict=True):
            assert (
                float((found.double() - right.detach()).norm() / right.detach().norm()) < 5e-3
            )  # one value on the other side of the kink is 1e-3
        statistics = (batch.mean, batch.var * (x.numel() / shape[1]) / (x.numel() / shape[1] - 1))
        for buffer, kept, new in zip(running(layer), before, statistics, strict=True):
            torch.testing.assert_close(buffer.double(), kept + 0.1 * (new.detach() - kept), rtol=1e-5, atol=1e-5)
