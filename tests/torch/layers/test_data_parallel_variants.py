"""Layers per domain and virtual batches in DistributedDataParallel, over two real processes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import normwise.torch as nt
from tests.torch.processes import outcomes as outcomes_of
from tests.torch.processes import work

F64 = torch.float64
Found = dict[str, Any]
STEPS = 2
DOMAINS = ("day", "night")


def samples(rank: int, step: int) -> Tensor:
    draw = torch.Generator().manual_seed(10 * rank + step)
    return torch.randn((6, 3), generator=draw, dtype=F64) + rank


def network(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2)).double()


def per_domain(own_affine: bool) -> nn.Module:
    return nt.PerDomain(nt.BatchNorm1d(4, activation="silu"), DOMAINS, own_affine=own_affine)


def step_of(model: nn.Module, inner: nn.Module, rank: int, step: int, domain: str) -> Found:
    model.zero_grad()
    with nt.domain(model, domain) if isinstance(inner[1], nt.PerDomain) else nullcontext():  # type: ignore[index]  # a Sequential
        model(samples(rank, step)).pow(3).mean().backward()
    return {name: each.grad for name, each in inner.named_parameters() if each.grad is not None}


def trained(norm: nn.Module, rank: int, domains: list[str], *, together: bool, **settings: Any) -> Found:
    """Some steps; the gradients of the last, and the state."""
    inner = network(norm)
    model: Any = DistributedDataParallel(inner, **settings) if together else inner
    gradients: Found = {}
    for step, domain in enumerate(domains):
        gradients = step_of(model, inner, rank, step, domain)
    return {"gradients": {name: each.clone() for name, each in gradients.items()}, "state": dict(inner.state_dict())}


def find(rank: int, _: int) -> Found:
    ghost = nt.GhostBatchNorm1d(4, virtual_batch_size=3, activation="relu")
    # The same domains in both processes, and then others in each.
    alike, apart = ["day", "night"], [DOMAINS[rank], DOMAINS[1 - rank]]
    unused = {"find_unused_parameters": True}
    return {
        "ghost": trained(ghost, rank, ["day"] * STEPS, together=True),
        "alike": trained(per_domain(False), rank, alike, together=True),
        "apart": trained(per_domain(False), rank, apart, together=True),
        "own affine": trained(per_domain(True), rank, apart, together=True, **unused),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    first, second = outcomes_of(__name__, Path(tmp_path_factory.mktemp("ranks")), 2)
    return first, second


def alone(scene: str, rank: int) -> Found:
    """The results that the process would have by itself."""
    if scene == "ghost":
        ghost = nt.GhostBatchNorm1d(4, virtual_batch_size=3, activation="relu")
        return trained(ghost, rank, ["day"] * STEPS, together=False)
    domains = list(DOMAINS) if scene == "alike" else [DOMAINS[rank], DOMAINS[1 - rank]]
    return trained(per_domain(scene == "own affine"), rank, domains, together=False)


@pytest.mark.parametrize("scene", ["ghost", "alike", "apart", "own affine"])
def test_gradients_are_the_mean_of_both(scene: str, found: tuple[Found, Found]) -> None:
    each = [alone(scene, rank)["gradients"] for rank in range(2)]
    names = each[0].keys() | each[1].keys()
    nothing = torch.zeros((), dtype=F64)
    for part in found:
        gradients = part[scene]["gradients"]
        assert gradients.keys() == names
        for name in names:
            mean = sum(own.get(name, nothing) for own in each) / 2
            torch.testing.assert_close(gradients[name], mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scene", ["ghost", "alike"])
def test_statistics_are_rank_0s_and_one_batch_of_the_processs_own(scene: str, found: tuple[Found, Found]) -> None:
    """As with any layer: its buffers are sent round before each forward."""
    right = alone(scene, 0)["state"]
    for name, value in found[0][scene]["state"].items():
        torch.testing.assert_close(value, right[name], rtol=1e-10, atol=1e-10)
    kinds = "1.running_mean" if scene == "ghost" else "1.domain_night.running_mean"
    assert not torch.equal(found[0][scene]["state"][kinds], found[1][scene]["state"][kinds])
    if scene == "alike":
        day = "1.domain_day.running_mean"
        torch.testing.assert_close(found[1][scene]["state"][day], right[day])


def test_where_domains_differ_each_process_moved_its_own_last(found: tuple[Found, Found]) -> None:
    counts = [part["apart"]["state"]["1.domain_day.num_batches_tracked"] for part in found]
    assert [int(count) for count in counts] == [1, 2]  # rank 1 has rank 0's first batch, and its own second


if __name__ == "__main__":
    work(find)
