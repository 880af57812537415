"""DistributedDataParallel over two real processes: gradients and statistics as with torch.nn's layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import normwise.torch as nt

WORLD = 2
SCENES = ["plain", "two forwards", "channels last", "mask", "pooled"]


def batch(rank: int, step: int, scene: str) -> Tensor:
    draw = torch.Generator().manual_seed(10 * rank + step)
    size = 24 if scene == "channels last" else 6
    x = torch.randn((4, 3, size, size), generator=draw) + rank
    return x.contiguous(memory_format=torch.channels_last) if scene == "channels last" else x


class Network(nn.Module):
    """A convolution, a norm, and something to multiply."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = norm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(self.conv(x)) if mask is None else self.norm(self.conv(x), mask=mask)
        return y


def train(rank: int, model: nn.Module, scene: str) -> dict[str, Tensor]:
    """Two steps; what the gradients and the state are then."""
    for step in range(2):
        model.zero_grad()
        x = batch(rank, step, scene)
        extras = {"mask": torch.ones(4, *(s - 2 for s in x.shape[2:]), dtype=torch.bool)} if scene == "mask" else {}
        loss = model(x, **extras).pow(3).sum()
        if scene == "two forwards":
            loss = loss + model(x.flip(0) * 2).pow(3).sum()
        loss.backward()
    found = {f"grad of {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: value.clone() for name, value in model.state_dict().items()}


def attempt(rank: int, norm: nn.Module, scene: str, broadcast: bool) -> Any:
    """The outcome under DDP, or the words of the error."""
    torch.manual_seed(0)
    model = DistributedDataParallel(Network(norm), broadcast_buffers=broadcast)
    try:
        return train(rank, model, scene)
    except RuntimeError as error:
        return str(error).split(":", maxsplit=1)[0]


def work(rank: int, folder: str) -> None:
    """One process: every scene, with our layer and with torch's; the outcomes go to a file."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # a file, not a port: nothing that could be taken
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    outcomes = {}
    for scene in SCENES:
        settings: dict[str, Any] = {"estimator": "pooled"} if scene == "pooled" else {}
        for broadcast in (True, False):
            ours = attempt(rank, nt.BatchNorm2d(4, **settings), scene, broadcast)
            plain = "plain" if scene in ("mask", "pooled") else scene
            outcomes[scene, broadcast] = ours, attempt(rank, nn.BatchNorm2d(4), plain, broadcast)
    torch.save(outcomes, f"{folder}/{rank}.pt")
    dist.barrier()
    # Not by the interpreter's own end: gloo's threads are now and then still running then, which aborts the process.
    os._exit(0)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of both processes, which are ended if they take more than a minute."""
    folder = Path(tmp_path_factory.mktemp("ranks"))
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(WORLD)
    ]
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("broadcast", [True, False])
@pytest.mark.parametrize("scene", SCENES)
def test_gradients_and_statistics_are_as_with_torchs_layer(scene: str, broadcast: bool, outcomes: list[Any]) -> None:
    for rank in range(WORLD):
        ours, theirs = outcomes[rank][scene, broadcast]
        if isinstance(theirs, str):  # torch's own refuses two forwards when buffers are broadcast between them
            assert scene == "two forwards"
            assert broadcast
            assert ours == theirs
            continue
        assert not isinstance(ours, str), ours
        assert {*theirs} <= {*ours}
        largest = max(float(value.abs().max()) for key, value in theirs.items() if "grad" in key)
        for key, value in theirs.items():
            if scene == "pooled" and "running" in key:
                continue
            # Torch's own sums lose digits where the channels come last, and what they lose is of the size of the
            # largest gradient: that of the convolution's bias is 0 but for them.
            limit = 1e-4 + (1e-5 * largest if "grad" in key else 0)
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=limit, msg=key)


@pytest.mark.parametrize("scene", ["plain", "mask", "channels last", "pooled"])
def test_gradients_are_the_same_on_both_sides(scene: str, outcomes: list[Any]) -> None:
    first, second = (outcomes[rank][scene, True][0] for rank in range(WORLD))
    gradients = [key for key in first if key.startswith("grad of")]
    assert len(gradients) == 4
    for key in gradients:
        assert torch.equal(first[key], second[key]), key
    assert not torch.equal(first["module.norm.running_mean"], second["module.norm.running_mean"])


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
