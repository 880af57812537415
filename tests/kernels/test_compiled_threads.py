"""The compiled kernels on any number of threads, from several at once, and in forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import normwise.torch  # noqa: F401  gives the operators their gradients
from normwise.kernels import cpu
from tests.cases import gradients

if cpu.library is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent.parent
# As many channels as threads and fewer, and many; rows that no number of threads divides.
SHAPES = [(8, 3, 61, 61), (5, 130, 17, 7), (40001, 2), (3, 1, 20001), (2, 1024, 9, 3)]


@pytest.fixture(autouse=True)
def _same_number_afterwards() -> Iterator[None]:
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


def results(x: Tensor, residual: Tensor) -> tuple[Tensor, ...]:
    """Output, statistics and gradients, training, with ReLU behind an addition."""
    leaves = [x.detach().requires_grad_(), residual.detach().requires_grad_()]
    parameters = [torch.linspace(0.5, 1.5, x.shape[1], requires_grad=True) for _ in range(2)]
    y, mean, var, _ = cpu.forward(
        leaves[0], leaves[1], None, parameters[0], parameters[1], None, None, 1e-5, "relu", True
    )
    y.backward(residual)
    return (y.detach(), mean, var, *gradients(*leaves, *parameters))


def inputs(shape: tuple[int, ...], last: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    pair = (torch.randn(shape, generator=draw) + 10, torch.randn(shape, generator=draw))
    if last and len(shape) == 4:
        return pair[0].contiguous(memory_format=torch.channels_last), pair[1].contiguous(
            memory_format=torch.channels_last
        )
    return pair


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_number_of_threads_changes_no_more_than_rounding(shape: tuple[int, ...], last: bool) -> None:
    pair = inputs(shape, last)
    found = []
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        found.append(results(*pair))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=2e-5, atol=2e-5)


def test_calls_from_many_threads_at_once_are_right() -> None:
    problems = [inputs(SHAPES[seed % len(SHAPES)], bool(seed % 2), seed) for seed in range(10)]
    alone = [results(*pair) for pair in problems]
    with ThreadPoolExecutor(5) as threads:
        for _ in range(3):
            together = list(threads.map(lambda pair: results(*pair), problems))
            for one, two in zip(alone, together, strict=True):
                for a, b in zip(one, two, strict=True):
                    torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


LOADER = """
import signal, torch
from torch.utils.data import DataLoader, Dataset
from normwise.torch.functional import batch_norm
class Normalized(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        x = torch.randn(8, 16, 40, 40, generator=torch.Generator().manual_seed(index))
        return batch_norm(x, None, None, training=True, activation="relu")
signal.alarm(100)
data = Normalized()
right = torch.stack([data[i] for i in range(8)])  # the parent's threads have worked before the fork
found = torch.cat(list(DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork")))
torch.testing.assert_close(found, right)
print("right")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_forked_workers_of_a_data_loader_normalize() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LOADER], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "right", result.stderr[-2000:]
