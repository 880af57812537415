"""Trials on another device: where tensors are, which numbers are drawn, and what the result says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from normwise import lab
from normwise.errors import NormwiseError
from normwise.lab.networks.dense import Dense
from normwise.lab.networks.stack import Stack, batch_norm
from normwise.lab.running.devices import check, on
from normwise.lab.running.plan import Plan
from normwise.lab.running.store import Store
from normwise.lab.running.workers import Done, Task, Workers, work
from normwise.lab.training.timing import median_seconds

Make = Callable[..., Path]
SAME = "cpu:0"
"""The processor by another name, which goes the way that a GPU goes."""
EXPERIMENTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "does_it_train_faster": (
        {"inputs": ("grey",), "deviations": (0.1,), "rates": (0.5,), "steps": 12, "width": 8},
        {"pixels": "grey", "batch_norm": True, "deviation": 0.1, "rate": 0.5, "seed": 900},
    ),
    "is_covariate_shift_only_packaging": (
        {"rates": (0.1, 0.3), "steps": 12, "depth": 2, "width": 8},
        {"arm": "noisy_batch_norm", "seed": 900},
    ),
    "does_it_make_networks_less_robust": ({"rates": (0.1, 0.3), "steps": 12}, {"batch_norm": True, "seed": 900}),
}


def test_new_tensors_are_on_the_device_and_random_ones_are_those_of_the_processor() -> None:
    with on("meta"):
        drawn = torch.randn(3, generator=torch.Generator().manual_seed(0))
        order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
        filled = torch.empty(3).normal_(0.0, 1.0, generator=torch.Generator().manual_seed(0))
        read, zeros = torch.from_numpy(np.ones(3)), torch.zeros(3)
    assert {each.device.type for each in (drawn, order, filled, read, zeros)} == {"meta"}
    assert torch.zeros(3).device.type == torch.from_numpy(np.ones(3)).device.type == "cpu"
    with on(SAME):
        again = torch.randn(3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, torch.randn(3, generator=torch.Generator().manual_seed(0)))


def test_networks_are_built_and_compute_on_the_device() -> None:
    with on("meta"):
        dense = Dense(depth=2, width=8, batch_norm=True, seed=0)
        stack = Stack(2, depth=2, width=8, normalize=batch_norm, seed=0, dropout=(0.1, 0.2))
        images = torch.zeros(4, 64)
        logits = dense(images), stack(images)
    assert {each.device.type for network in (dense, stack) for each in network.parameters()} == {"meta"}
    assert [each.device.type for each in logits] == ["meta", "meta"]


def test_what_fails_inside_leaves_pytorch_as_it_was() -> None:
    before = torch.from_numpy
    with pytest.raises(ZeroDivisionError), on(SAME):
        raise ZeroDivisionError
    assert torch.from_numpy is before


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_trial_measures_the_same_by_the_way_that_a_gpu_goes(name: str) -> None:
    settings, trial = EXPERIMENTS[name]
    here, there = (work(Task(name, None, settings, trial, device=device)) for device in ("cpu", SAME))
    assert (here.error, there.error) == ("", "")
    assert here.outcome == there.outcome


def test_times_are_taken_inside_too() -> None:
    with on(SAME):
        assert median_seconds(lambda: torch.zeros(3) + 1, 3) > 0


def test_a_device_that_is_not_here_is_one_sentence() -> None:
    missing = next(name for name in ("cuda:7", "xpu:7") if not torch.accelerator.is_available() or name == "xpu:7")
    sentence = f"no device {missing!r} is on this machine: leave --device out, and the trials run on the processor."
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        check(missing)
    for wrong in ("meta", "cudaa", ""):
        sentence = f"--device must be a PyTorch device, received {wrong!r}: give for example cpu or cuda."
        with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
            check(wrong)


class Here(Workers):
    """Works trials off in this process."""

    def do(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Done]]:
        """One after the other."""
        return ((task, work(task)) for task in tasks)


def test_a_run_on_a_device_names_it_and_has_one_worker(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normwise.lab.running.session.Workers", Here)
    monkeypatch.setattr("normwise.lab.running.session.cores", lambda: 8)
    (result,) = lab.run(device=SAME, seeds=2, out=tmp_path / "out", folder=make())
    assert (result.stamp["device"], result.stamp["workers"], result.settings["device"]) == (SAME, 1, SAME)
    assert result.command == f"normwise lab run does_it_end --seeds 2 --device {SAME}"


@pytest.mark.parametrize("how", [{"workers": 2}, {"dask": "tcp://10.0.0.1:8786"}])
def test_a_device_works_for_one_process(how: dict[str, object], make: Make, tmp_path: Path) -> None:
    sentence = f"one process of this machine works on the device {SAME!r}: leave workers and dask out."
    with pytest.raises(NormwiseError, match=f"^{re.escape(sentence)}$"):
        lab.run(device=SAME, out=tmp_path / "out", folder=make(), **how)  # type: ignore[arg-type]  # of run


def test_what_was_measured_on_another_device_is_measured_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    here, there = (Task("does_it_end", None, {}, {"seed": 0}, device=device) for device in ("cpu", "cuda"))
    assert store.trial_file(here, "origin") != store.trial_file(there, "origin")
    assert Plan(device="cuda").command("does_it_end", 10) == "normwise lab run does_it_end --seeds 10 --device cuda"
