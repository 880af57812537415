"""Operations on whole models on a device: the model that they leave answers and trains as on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise
import normwise.torch as nt
from tests.on_a_device.device import DEVICE, assert_alike, assert_there, moved
from tests.torch import operations
from tests.torch.operations import OPERATIONS


class Block(nn.Module):
    """A residual block, whose additions and activations ``fuse`` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


def network() -> nn.Sequential:
    """Batch norms of both kinds."""
    torch.manual_seed(0)
    head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Block(), *pool, *head)


def batches(number: int = 3, device: str = "cpu") -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 6, 6, generator=draw) * 2 + k).to(device) for k in range(number)]


def trained(model: nn.Module, device: str) -> nn.Module:
    """Three steps of SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x in batches(3, device):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model


def recalibrated(model: nn.Module, device: str) -> nn.Module:
    normwise.recalibrate(model, batches(3, device))
    return model


def from_the_cpu(model: nn.Module, _: str) -> nn.Module:
    """Take batches as a loader has them, on the CPU, whatever the model's device."""
    normwise.recalibrate(model, batches())
    return model


def adapted(model: nn.Module, device: str) -> nn.Module:
    normwise.adapt(model, batches(2, device))
    return model


def adapted_on_the_way(model: nn.Module, device: str) -> nn.Module:
    with normwise.adapting(model.eval()):
        for x in batches(2, device):
            model(x)
    return model


def paused(model: nn.Module, device: str) -> nn.Module:
    with normwise.paused_statistics(model):
        model(batches(1, device)[0])
    return model


def in_turn(*steps: Callable[[nn.Module, str], nn.Module]) -> Callable[[nn.Module, str], nn.Module]:
    """One after the other."""

    def run(model: nn.Module, device: str) -> nn.Module:
        for step in steps:
            model = step(model, device)
        return model

    return run


def changed(operation: Callable[..., Any], **how: Any) -> Callable[[nn.Module, str], nn.Module]:
    """One that changes the model, or returns another one with reports."""

    def run(model: nn.Module, _: str) -> nn.Module:
        given = operation(model, **how)
        found = given[0] if isinstance(given, tuple) else given
        return found if isinstance(found, nn.Module) else model

    return run


def accumulated(model: nn.Module, device: str) -> nn.Module:
    """One step from the gradients of parts of a batch."""
    normwise.accumulate_gradients(model, [*batches(1, device)[0].split(4)], lambda f, x: f(x).square().mean())
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return model


def decayed(model: nn.Module, device: str) -> nn.Module:
    optimizer = torch.optim.SGD(normwise.param_groups(model, weight_decay=0.1), lr=0.1)
    model(batches(1, device)[0]).square().mean().backward()
    optimizer.step()
    return model


def in_a_domain(model: nn.Module, device: str) -> nn.Module:
    """Statistics of two domains, and the model of one of them."""
    model = normwise.convert_to_domains(model, ["day", "night"], default="day")[0]
    for name, x in zip(("day", "night"), batches(2, device), strict=True):
        with nt.domain(model, name):
            model(x)
    with normwise.statistics_from(model, "night"):
        model(batches(1, device)[0])
    found: nn.Module = normwise.convert_from_domains(model, "night")[0]
    return found


fused, swapped = changed(normwise.fuse), changed(normwise.swap, to="normwise")
WAYS: dict[str, Callable[[nn.Module, str], nn.Module]] = {
    "training": trained,
    "fuse": in_turn(fused, trained),
    "swap": in_turn(swapped, trained),
    "fuse, swap to torch": in_turn(fused, trained, changed(normwise.swap, to="torch"), trained),
    "recalibrate": in_turn(trained, recalibrated),
    "recalibrate, batches on the CPU": in_turn(trained, from_the_cpu),
    "adapt": in_turn(trained, adapted),
    "adapting": in_turn(trained, adapted_on_the_way),
    "paused_statistics": paused,
    "freeze": in_turn(trained, changed(normwise.freeze), trained),
    "freeze, unfreeze": in_turn(changed(normwise.freeze), changed(normwise.unfreeze), trained),
    "fold": in_turn(trained, changed(nn.Module.eval), changed(normwise.fold)),
    "fuse, fold": in_turn(trained, fused, changed(nn.Module.eval), changed(normwise.fold)),
    "save_memory": in_turn(changed(normwise.save_memory), trained),
    "fuse, save_memory": in_turn(fused, changed(normwise.save_memory), trained),
    "accumulate_gradients": accumulated,
    "param_groups": decayed,
    "synchronized": in_turn(
        changed(normwise.convert_to_synchronized), changed(normwise.convert_from_synchronized), trained
    ),
    "pool_statistics": in_turn(trained, changed(normwise.pool_statistics)),
    "domains": in_a_domain,
}


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", WAYS)
def test_the_model_is_the_one_that_the_cpu_has(name: str, last: bool) -> None:
    form: Any = torch.channels_last if last else torch.contiguous_format
    model: Any = network()
    model = model.to(memory_format=form)
    there = WAYS[name](moved(model), DEVICE)
    here = WAYS[name](model, "cpu")
    assert [*there.state_dict()] == [*here.state_dict()]
    assert_alike(there.state_dict().values(), here.state_dict().values(), more=10)
    assert_there([*there.parameters(), *there.buffers()])
    x = batches(1)[0].contiguous(memory_format=form)
    for either in (there, here, twin := copy.deepcopy(there)):
        either.eval()
    assert_alike([there(x.to(DEVICE))], [here(x)], more=10)
    assert_alike([twin(x.to(DEVICE))], [there(x.to(DEVICE)).cpu()])


@pytest.fixture
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of the list of operations on the device."""
    monkeypatch.setattr(operations, "X", operations.X.to(DEVICE))
    monkeypatch.setattr(operations, "PARTS", [part.to(DEVICE) for part in operations.PARTS])


# They need a model that another one has changed; ``WAYS`` has them.
OF_ANOTHER = ("statistics_from", "convert_from_domains", "convert_from_synchronized")


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in OF_ANOTHER])
def test_every_operation_of_the_list(name: str) -> None:
    """Nothing of the model is on another device then."""
    model = moved(operations.network())
    OPERATIONS[name](model)
    assert_there([*model.parameters(), *model.buffers(), model.eval()(operations.X)])


def test_every_door_is_tried() -> None:
    """Those for Keras models need Keras."""
    of_keras = {"convert_from_keras", "convert_to_keras"}
    tried = {
        *(name.split(",")[0] for name in WAYS),
        *OPERATIONS,
        *("unfreeze", "examine", "swap"),
    }
    assert {*normwise.__all__} - of_keras <= tried


def test_the_doctor_examines_a_model_on_the_device() -> None:
    x, y = torch.cat(batches(4)), torch.arange(32) % 3
    data = torch.utils.data.TensorDataset(x, y)
    found = [
        normwise.examine(each, torch.utils.data.DataLoader(data, batch_size=8))
        for each in (moved(network()), network())
    ]
    there, here = ([finding.check for finding in each.findings] for each in found)
    assert there == here
