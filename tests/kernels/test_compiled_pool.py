"""The memory behind large outputs: reused after they die and never before, bounded, given back, and off by a switch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import normwise.torch  # noqa: F401  gives the operators their gradients
from normwise.kernels import cpu

if cpu.library is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent.parent
MB = 1 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process as Linux shows it")


def output(megabytes: int = 8, value: float = 1.0) -> Tensor:
    """An output of so many MB, all equal to the value."""
    x = torch.zeros(2, 4, megabytes * MB // 32)
    shift = torch.full((4,), value)
    return cpu.forward(x, None, None, None, shift, None, None, 1e-5, None, False).y


@pytest.fixture(autouse=True)
def _empty_pool() -> Iterator[None]:
    limit = cpu.pool()["limit"]
    cpu.library.set_pool_limit(1 << 30)
    cpu.library.release_pool()
    yield
    cpu.library.set_pool_limit(limit)
    cpu.library.release_pool()


def test_the_memory_of_a_dead_output_serves_the_next() -> None:
    before = cpu.pool()
    y = output()
    at = y.data_ptr()
    assert cpu.pool()["lent"] == before["lent"] + 8 * MB
    del y
    assert cpu.pool()["kept"] == 8 * MB
    z = output(value=2.0)
    assert z.data_ptr() == at
    assert (z == 2).all()
    assert cpu.pool()["reused"] == before["reused"] + 1


def test_small_outputs_stay_out_of_it() -> None:
    before = cpu.pool()
    cpu.forward(torch.zeros(2, 4, 8), None, None, None, None, None, None, 1e-5, None, False)
    assert cpu.pool() == before


@pytest.mark.parametrize("keep", [
    lambda y: y.view(-1)[5:],
    lambda y: y.detach(),
    lambda y: y.untyped_storage(),
    lambda y: y.numpy(),
    torch.utils.dlpack.from_dlpack,
    np.from_dlpack,
], ids=["view", "detach", "storage", "numpy", "dlpack", "numpy by dlpack"])  # fmt: skip
def test_memory_that_anything_still_refers_to_is_not_handed_out(keep) -> None:  # type: ignore[no-untyped-def]  # lambdas
    lent = cpu.pool()["lent"]
    y = output(value=3.0)
    at = y.data_ptr()
    kept = keep(y)
    del y
    others = [output(value=4.0) for _ in range(3)]
    assert at not in [other.data_ptr() for other in others]
    if isinstance(kept, torch.UntypedStorage):
        kept = torch.tensor([], dtype=torch.float32).set_(kept)
    assert (kept == 3.0).all()
    del kept, others
    assert cpu.pool()["lent"] == lent


def test_gradients_too() -> None:
    x, residual = torch.randn(2, 4, MB, requires_grad=True), torch.randn(2, 4, MB, requires_grad=True)
    lent = cpu.pool()["lent"]
    y, *_ = cpu.forward(x, residual, None, None, None, None, None, 1e-5, "relu", True)
    y.sum().backward()
    assert cpu.pool()["lent"] == lent + 3 * 32 * MB
    del y
    x.grad = residual.grad = None
    assert cpu.pool()["lent"] == lent
    assert cpu.pool()["kept"] == 3 * 32 * MB


def test_no_more_is_kept_than_the_limit() -> None:
    cpu.library.set_pool_limit(20 * MB)
    outputs = [output() for _ in range(5)]
    outputs.clear()
    assert cpu.pool()["kept"] <= 20 * MB
    cpu.library.set_pool_limit(9 * MB)
    assert cpu.pool()["kept"] <= 9 * MB
    cpu.library.set_pool_limit(0)
    assert cpu.pool()["kept"] == 0
    before = cpu.pool()
    output()
    assert cpu.pool() == before


def test_a_negative_limit_switches_it_off_too() -> None:
    cpu.library.set_pool_limit(-1)
    before = cpu.pool()
    output()
    assert cpu.pool() == before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@LINUX
@pytest.mark.parametrize("how", ["release", "limit"])
def test_memory_really_goes_back(how: str) -> None:
    output(8)
    outputs = [output(64) for _ in range(3)]
    outputs.clear()
    full = resident()
    if how == "release":
        cpu.library.release_pool()
    else:
        cpu.library.set_pool_limit(0)
    assert full - resident() > 180 * MB
    assert cpu.pool()["kept"] == 0


def script(text: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_the_environment_switches_it_off() -> None:
    text = """
import torch

import normwise.torch  # noqa: F401  gives the operators their gradients
from normwise.kernels import cpu
y = cpu.forward(torch.zeros(2, 4, 1 << 18), None, None, None, None, None, None, 1e-5, None, False).y
print(cpu.pool())
"""
    assert script(text, NORMWISE_POOL_MB="0") == str(dict.fromkeys(("limit", "kept", "lent", "reused", "fresh"), 0))
    assert str({"limit": 20 * MB})[:-1] in script(text, NORMWISE_POOL_MB="20")


def test_outputs_are_tensors_like_any_other() -> None:
    y = output(value=5.0)
    assert torch.equal(pickle.loads(pickle.dumps(y)), y)
    assert torch.equal(y.clone().add_(1), y + 1)
    y.mul_(2)
    assert (y == 10).all()
    assert y.is_contiguous()
    assert y.untyped_storage().nbytes() == 8 * MB
    y.resize_(2, 4, 8)
    assert (y == 10).all()
    y.set_()  # type: ignore[call-overload]  # torch's own name for an empty one
    assert y.numel() == 0


def test_an_output_moves_to_shared_memory() -> None:
    lent = cpu.pool()["lent"]
    y = output(value=5.0)
    y.share_memory_()
    assert y.is_shared()
    assert (y == 5).all()
    assert cpu.pool()["lent"] == lent


def test_growing_an_output_is_torchs_own_clear_error_or_works() -> None:
    y = output()
    refused = ""
    try:
        y.resize_(4, 4, MB)
    except RuntimeError as error:
        refused = str(error)
    assert "not resizable" in refused or y.shape == (4, 4, MB)


def test_threads_never_share_a_block() -> None:
    def work(number: int) -> bool:
        right = True
        for turn in range(10):
            y = output(2 + turn % 3, value=float(number))
            right = right and bool((y == number).all())
        return right

    lent = cpu.pool()["lent"]
    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(12)))
    assert cpu.pool()["lent"] == lent


FORK = """
import os, signal, sys, threading, torch
torch.set_num_threads(1)
from normwise.kernels import cpu
x = torch.zeros(2, 4, 1 << 18)
def output(): return cpu.forward(x, None, None, None, torch.full((4,), 3.0), None, None, 1e-5, None, False).y
kept = output()
stop = False
def churn():
    while not stop: output()
thread = threading.Thread(target=churn)
if sys.argv[1:] == ["busy"] or BUSY: thread.start()
for turn in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        right = bool((output() == 3).all()) and bool((kept == 3).all())
        kept.fill_(9)
        os._exit(0 if right else 3)
    status = os.waitpid(child, 0)[1]
    if status: break
stop = True
assert (kept == 3).all()
print("stuck" if status and os.WIFSIGNALED(status) else status, flush=True)
os._exit(0)
"""


@LINUX
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "another thread computes"])
def test_a_forked_process_has_its_own(busy: bool) -> None:
    assert script(FORK.replace("BUSY", str(busy))) == "0"
