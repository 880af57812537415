"""Frozen layers in ``DistributedDataParallel``, over two real processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.torch.models.conversion.freeze import freeze, unfreeze
from tests.torch.processes import outcomes, work

STEPS = 5


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6)),
        *(nt.BatchNorm1d(6, activation="relu"), nn.Linear(6, 6), nt.SyncBatchNorm(6), nn.Linear(6, 2)),
    )


def tensors_of_norms(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if name.split(".")[0] in "146"}


def work_of(rank: int, world: int) -> Any:
    _ = world
    model = network()
    freeze(model)
    before = tensors_of_norms(model)
    wrapped = DistributedDataParallel(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(STEPS):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(10 * step + rank)) + rank
        optimizer.zero_grad(set_to_none=False)
        wrapped(x).square().mean().backward()
        optimizer.step()
    errors = []
    for change in (unfreeze, freeze):
        plain = DistributedDataParallel(network())
        if change is unfreeze:
            plain = wrapped
        try:
            change(plain)
        except NormwiseError as error:
            errors.append(str(error))
    now = tensors_of_norms(model)
    moved = [name for name in now if not torch.equal(now[name], before[name])]
    statistics = {*unfreeze(wrapped, affine=False).layers}
    wrapped(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))
    return {
        "moved": moved,
        "first": model[0].weight.detach().clone(),
        "errors": errors,
        "statistics": sorted(statistics),
        "moves": not torch.equal(model[1].running_mean, before["1.running_mean"]),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of both processes."""
    return outcomes(__name__, tmp_path_factory.mktemp("ranks"), 2)


def test_nothing_of_a_frozen_layer_moves_and_the_rest_is_trained_together(found: list[Any]) -> None:
    assert [each["moved"] for each in found] == [[], []]
    assert torch.equal(found[0]["first"], found[1]["first"])
    assert not torch.equal(found[0]["first"], network()[0].weight)


def test_statistics_can_be_unfrozen_inside_and_parameters_cannot(found: list[Any]) -> None:
    for each in found:
        assert (each["statistics"], each["moves"]) == (["module.1", "module.4", "module.6"], True)
        assert each["errors"] == [
            "unfreeze received a model that DistributedDataParallel wraps, which would not join the gradients of "
            "parameters that learn only now: call it on the model before that, or pass affine=False.",
            "freeze received a model that DistributedDataParallel wraps, which waits for the gradients of the "
            "parameters that it was given: call it on the model before that, or pass affine=False.",
        ]


if __name__ == "__main__":
    work(work_of)
