"""``recalibrate`` over two real processes: each its share, all the same statistics, and one failure is everyone's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.torch.models.recalibration.recalibrate import recalibrate

WORLD = 2
SHARES = ((16, 16, 5), (9,))
SCENES = ["pooled", "cumulative", "batch", "sync", "empty", "ema", "alone", "one fails", "whitening", "skips"]


class OfLargeOnes(nn.Sequential):
    """Layers that batches with a small mean, which are those of the first process, pass by."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(x) if x.mean() > 1.5 else x
        return found


def network(scene: str = "") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
    ).double()
    if scene == "whitening":
        model[1] = nt.DecorrelatedBatchNorm1d(6, group_size=3, dtype=torch.float64)
    if scene == "skips":
        model.insert(0, OfLargeOnes(nn.BatchNorm1d(3)).double())
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if scene == "sync" else model


def share(rank: int, scene: str = "") -> list[Tensor]:
    if scene == "empty" and rank == 1:
        return []
    draw = torch.Generator().manual_seed(rank)
    found = [torch.randn((n, 3), generator=draw, dtype=torch.float64) + 3 * rank for n in SHARES[rank]]
    if scene == "one fails" and rank == 1:
        found.append(torch.zeros(4, 7, dtype=torch.float64))
    return found


def attempt(rank: int, scene: str) -> Any:
    model: nn.Module = network(scene)
    if scene != "sync":  # which DDP takes on a GPU only
        model = DistributedDataParallel(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings: dict[str, Any] = {"distributed": scene != "alone"}
    if scene in ("cumulative", "ema"):
        settings["estimator"] = scene
    if scene == "batch":
        settings["upstream"] = scene
    try:
        report = recalibrate(model, share(rank, scene), **settings)
    except (NormwiseError, RuntimeError) as error:
        same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return {"error": str(error), "same": same}
    state = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    return {"state": state, "batches": report.batches, "samples": report.samples, "layers": [*report.recalibrated]}


def work(rank: int, folder: str, dies: bool) -> None:
    """One process: every scene; the outcomes go to a file."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # a file, not a port: nothing that could be taken
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    if dies:
        torch.save(left_alone(rank), f"{folder}/{rank}.pt")
        os._exit(0)
    torch.save({scene: attempt(rank, scene) for scene in SCENES}, f"{folder}/{rank}.pt")
    dist.barrier()
    # Not by the interpreter's own end: gloo's threads are now and then still running then, which aborts the process.
    os._exit(0)


def left_alone(rank: int) -> Any:
    """Rank 1 is killed while it goes through its data; what becomes of the other."""

    def batches() -> Iterator[Tensor]:
        yield from share(rank)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    model, began = network(), time.monotonic()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        recalibrate(model, batches())
    except NormwiseError as error:
        same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return {"error": str(error), "same": same, "seconds": time.monotonic() - began}
    return {}


def run(folder: Path, *more: str) -> list[int]:
    """Both processes' exit codes; they are ended if they take more than a minute."""
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder), *more], stderr=subprocess.PIPE, text=True)
        for rank in range(WORLD)
    ]
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes[0] == 0, "\n".join(errors)
    return codes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of both processes."""
    folder = Path(tmp_path_factory.mktemp("ranks"))
    assert run(folder) == [0] * WORLD
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("scene", ["pooled", "cumulative", "batch", "sync", "empty", "whitening", "skips"])
def test_all_ranks_have_the_statistics_of_one_process_with_all_data(scene: str, outcomes: list[Any]) -> None:
    alone = network(scene if scene in ("whitening", "skips") else "")
    settings: dict[str, Any] = {"estimator": scene} if scene == "cumulative" else {}
    everything = [batch for rank in range(WORLD) for batch in share(rank, scene)]
    recalibrate(alone, everything, upstream="batch" if scene == "batch" else "inference", **settings)
    first, second = (outcome[scene] for outcome in outcomes)
    assert (first["batches"], first["samples"]) == (len(everything), sum(len(batch) for batch in everything))
    for name, value in alone.state_dict().items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=1e-12, atol=1e-12)


def test_a_process_may_stay_alone(outcomes: list[Any]) -> None:
    for rank, outcome in enumerate(outcomes):
        alone = network()
        recalibrate(alone, share(rank))
        torch.testing.assert_close(outcome["alone"]["state"], dict(alone.state_dict()))


def test_the_layers_have_the_names_of_the_model_that_was_passed(outcomes: list[Any]) -> None:
    assert outcomes[0]["pooled"]["layers"] == ["module.1", "module.4"]
    assert outcomes[0]["sync"]["layers"] == ["1", "4"]


def test_an_average_that_needs_an_order_is_refused_on_every_rank(outcomes: list[Any]) -> None:
    assert [outcome["ema"] for outcome in outcomes] == [
        {
            "error": "recalibrate over several processes needs an estimator to which the order of batches is nothing, "
            "received Ema(weight_of_new=0.1): use 'pooled' or 'cumulative', or pass distributed=False.",
            "same": True,
        }
    ] * WORLD


def test_a_failure_on_one_rank_is_an_error_on_all_and_every_model_is_as_it_was(outcomes: list[Any]) -> None:
    there, here = (outcome["one fails"] for outcome in outcomes)
    assert here["error"] == "mat1 and mat2 shapes cannot be multiplied (4x7 and 3x6)"
    assert there["error"] == (
        f"recalibrate was given up because rank 1 failed with RuntimeError: {here['error']}: "
        "the model is as it was; mend that and call it again on every rank."
    )
    assert there["same"]
    assert here["same"]


def test_a_rank_that_dies_is_an_error_on_the_other_and_its_model_is_as_it_was(tmp_path: Path) -> None:
    assert run(tmp_path, "dies") == [0, -signal.SIGKILL]
    found = torch.load(tmp_path / "0.pt", weights_only=True)
    assert found["error"].startswith("recalibrate lost another of its 2 processes (")  # then gloo's words
    assert found["error"].endswith("): the model is as it was; see what ended that one, and start all of them again.")
    assert found["same"]
    assert found["seconds"] < 30


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], "dies" in sys.argv)
