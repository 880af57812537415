"""Synchronized batch norm where ``torchrun`` starts the processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import normwise.torch as nt
from tests.torch.processes import LONGEST, ROOT

STEPS = 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()


def trained(model: nn.Module, inner: nn.Module, rank: int | None) -> dict[str, torch.Tensor]:
    """A few steps, with half of each batch or with all of it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        x = torch.randn((8, 3), generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        x[4:] += 3
        optimizer.zero_grad()
        model(x if rank is None else x[4 * rank : 4 * rank + 4]).square().mean().backward()
        optimizer.step()
    return dict(inner.state_dict())


def main(folder: str) -> None:
    """The work of each of the processes, as a user's script would do it."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    model = nt.convert_to_synchronized(network()).model
    state = trained(DistributedDataParallel(model), model, rank)
    torch.save(state, f"{folder}/{rank}.pt")
    distributed.barrier()
    os._exit(0)  # gloo's threads are now and then still running at the interpreter's own end


def test_training_is_that_of_one_process_with_the_whole_batches(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", __name__, str(tmp_path)],
        check=False,  # its own words are in the assertion
        cwd=ROOT,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr
    alone = network()
    right = trained(alone, alone, None)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


if __name__ == "__main__":
    main(sys.argv[1])
