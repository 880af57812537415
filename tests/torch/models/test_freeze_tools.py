"""Frozen layers under what copies, compiles and records a model."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import normwise.torch as nt
from normwise.torch.layers.frozen import FrozenStatistics
from normwise.torch.models.conversion.freeze import freeze, unfreeze
from tests.torch.models.layers_to_freeze import ALL, TRACKED, assert_as_before, batch, train, used, values

# What records here is deprecated, and says so; people have it all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")


def saved(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
    "AveragedModel": lambda model: AveragedModel(model).module,
    "half and back": lambda model: copy.deepcopy(model).half().float(),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ALL)
def test_a_copy_is_as_frozen_and_can_be_unfrozen(name: str, way: str) -> None:
    case = ALL[name]
    layer = used(case)
    freeze(layer)
    twin = COPIES[way](layer)
    before = values(twin)
    train(twin, case, 2)
    assert_as_before(twin, before)
    learned = [each.requires_grad for each in layer.parameters()]
    assert [each.requires_grad for each in twin.parameters()] == learned
    done = unfreeze(twin)
    assert [*done.layers] == [""]
    assert all(each.requires_grad for each in twin.parameters())
    assert not any(isinstance(part, FrozenStatistics) for part in twin.modules())


@pytest.mark.parametrize("name", [name for name in TRACKED if "Renorm" not in name])
def test_torch_compile_sees_it_and_compiles_once(name: str) -> None:
    case = ALL[name]
    layer = used(case)
    layer.requires_grad_(False)
    torch._dynamo.reset()
    compiled = torch.compile(nn.Sequential(layer), backend="eager")
    compiled(case.input())
    freeze(layer)
    before, expected = values(layer), layer(case.input())
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=False):
        torch.testing.assert_close(compiled(case.input()), expected)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(case.input())
        layer.eval(), layer.train()
        compiled(case.input(1))
    assert_as_before(layer, before)
    unfreeze(layer)
    compiled(case.input(2))
    now = values(layer)
    assert [name for name in now if "running_mean" in name and not torch.equal(now[name], before[name])]


@pytest.mark.parametrize("make", [nn.BatchNorm2d, nt.BatchNorm2d], ids=["torch", "normwise"])
def test_torch_compile_in_one_graph(make: Callable[[int], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), make(4), nn.ReLU())
    freeze(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    before = values(model[1])
    compiled(batch()).sum().backward()
    assert_as_before(model[1], before)


RECORDERS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "torch.jit.trace": torch.jit.trace,
    "torch.fx": lambda model, _: torch.fx.symbolic_trace(model).train(),
    "torch.export": lambda model, x: torch.export.export(model, (x,)).module(),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")  # PyTorch's own instance norm asks
@pytest.mark.parametrize("way", RECORDERS)
@pytest.mark.parametrize("name", [name for name in TRACKED if "Domain" not in name and "Iterative" not in name])
def test_what_is_recorded_is_frozen(name: str, way: str) -> None:
    case = ALL[name]
    layer = used(case)
    freeze(layer)
    layer.train()
    recorded = RECORDERS[way](nn.Sequential(layer), case.input())
    before, expected = values(layer), layer(case.input(3))
    torch.testing.assert_close(recorded(case.input(3)), expected)
    assert_as_before(layer, before)


def test_torch_jit_script_takes_the_mode_of_the_moment() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    freeze(model)
    expected = model(batch())
    scripted: Any = torch.jit.script(model)
    assert torch.equal(scripted(batch()), expected)
