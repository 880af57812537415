"""Layers that are built on the meta device and get their values later: no tensor is left there, nor without a value."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import normwise.torch as nt
from normwise.torch.models.fusion.fuse import fuse
from tests.torch.every_layer import CASES, C, Case

NAMES = list(CASES)
TRACKING = [name for name, case in CASES.items() if case.tracks]
NOT_LAZY = [name for name in NAMES if not name.startswith("Lazy")]
# Not 0 and not 1 in any of its bytes: memory that nothing has written to looks like this here.
JUNK = 77


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def trained(case: Case) -> nn.Module:
    """A layer with parameters, statistics and corrections of its own."""
    layer = case.make()
    for seed in range(2):
        layer(case.input(seed))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def tensors(layer: nn.Module) -> dict[str, Tensor]:
    return dict([*layer.named_parameters(), *layer.named_buffers()])


def assert_real(layer: nn.Module) -> None:
    assert [name for name, tensor in tensors(layer).items() if tensor.is_meta] == []


def assert_like(layer: nn.Module, source: nn.Module, case: Case) -> None:
    """Everything of the layer is what a normally built one has that loaded the same, now and after more batches."""
    usual = case.make()
    usual.load_state_dict(source.state_dict())
    assert_real(layer)
    layer.to("cpu")
    for training, seed in ((False, 3), (True, 4), (False, 5)):
        for either in (layer, usual):
            either.train(training)
        torch.testing.assert_close(layer(case.input(seed)), usual(case.input(seed)), rtol=0, atol=0)
        found, wanted = tensors(layer), tensors(usual)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype, name
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


@pytest.fixture
def emptied_memory_is_junk(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty_like

    def junk(*args: Any, **settings: Any) -> Tensor:
        made = real(*args, **settings)
        return made if made.is_meta else made.fill_(JUNK)

    monkeypatch.setattr(torch, "empty_like", junk)


def assign(layer: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    layer.load_state_dict(state, assign=True)
    return layer


def empty_then_load(layer: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    layer.to_empty(device="cpu")
    layer.load_state_dict(state)
    return layer


def load_then_copy(layer: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    return copy.deepcopy(assign(copy.deepcopy(layer), state))


def by_swapping(layer: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return assign(layer, state).to("cpu")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def one_by_one(layer: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load weights piece by piece, as tools do that write into a module's dictionaries."""
    for key, value in state.items():
        place, _, name = key.rpartition(".")
        module = layer.get_submodule(place)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(value)
        else:
            module._buffers[name] = value
    return layer


WAYS = [assign, empty_then_load, load_then_copy, by_swapping]


@pytest.mark.usefixtures("emptied_memory_is_junk")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_leaves_nothing_on_meta(name: str, way: Callable[..., nn.Module]) -> None:
    case = CASES[name]
    source = trained(case)
    assert_like(way(on_meta(case.make), copy.deepcopy(source.state_dict())), source, case)


@pytest.mark.parametrize("name", NOT_LAZY)
def test_a_file_of_safetensors_assigned(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source = trained(case)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    assert_like(assign(on_meta(case.make), load_file(tmp_path / "weights.safetensors")), source, case)


@pytest.mark.parametrize("name", NOT_LAZY)
def test_tensors_set_one_by_one(name: str) -> None:
    case = CASES[name]
    source = trained(case)
    layer = one_by_one(on_meta(case.make), copy.deepcopy(source.state_dict()))
    if not isinstance(layer, nt.PerDomain):  # whose domains take its parameters when it is moved
        copy.deepcopy(layer)(case.input())
        copy.deepcopy(layer).eval()(case.input())
    assert_like(layer.to("cpu"), source, case)


@pytest.mark.parametrize("name", [name for name in TRACKING if "PerDomain" not in name and "Lazy" not in name])
def test_what_counts_is_counted_where_tensors_were_set_one_by_one(name: str) -> None:
    case = CASES[name]
    layer = one_by_one(on_meta(case.make), trained(case).state_dict())
    layer(torch.full(case.shape, torch.nan))
    assert layer.num_batches_skipped == 1
    assert_real(layer)


@pytest.mark.parametrize("name", [name for name in NOT_LAZY if re.search(r"Norm\dd|Renorm|SyncBatch", name)])
def test_a_checkpoint_of_pytorchs_own_layer(name: str) -> None:
    case = CASES[name]
    plain: Any = nn.InstanceNorm2d if "Instance" in name else nn.BatchNorm2d
    source = plain(C, affine=True, track_running_stats=True)
    source(torch.randn(8, C, 3, 5))
    layers = on_meta(case.make), case.make()
    for layer in layers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that whitening layers take the channels as uncorrelated
            layer.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)
    assert_like(layers[0], layers[1], case)


@pytest.mark.usefixtures("emptied_memory_is_junk")
@pytest.mark.parametrize("from_meta", [True, False])
@pytest.mark.parametrize("name", [name for name in TRACKING if not name.startswith("Lazy")])
def test_emptied_and_reset_is_new(name: str, from_meta: bool) -> None:
    case = CASES[name]
    layer = on_meta(case.make) if from_meta else trained(case)
    layer.to_empty(device="cpu")
    module: Any
    for module in layer.modules():
        unsaved = getattr(module, "_unsaved", {})
        assert all((module.get_buffer(key) == first).all() for key, first in unsaved.items())
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    new = case.make()
    for key, tensor in tensors(new).items():
        torch.testing.assert_close(tensors(layer)[key], tensor, rtol=0, atol=0, msg=key)
    layer(case.input())
    new(case.input())
    for key, tensor in tensors(new).items():
        torch.testing.assert_close(tensors(layer)[key], tensor, rtol=0, atol=0, msg=key)


@pytest.mark.usefixtures("emptied_memory_is_junk")
@pytest.mark.parametrize("name", TRACKING)
def test_statistics_reset_after_junk_are_new(name: str) -> None:
    case = CASES[name]
    layer = trained(case)
    for buffer in layer.buffers():
        buffer.fill_(JUNK)
    module: Any
    for module in layer.modules():
        if hasattr(module, "reset_running_stats"):
            module.reset_running_stats()
    known = case.make()
    known.load_state_dict(layer.state_dict())
    for key, buffer in known.named_buffers():
        torch.testing.assert_close(layer.get_buffer(key), buffer, rtol=0, atol=0, msg=key)


@pytest.mark.usefixtures("emptied_memory_is_junk")
@pytest.mark.parametrize("name", [name for name in NOT_LAZY if "PerDomain" not in name])
def test_initialization_skipped(name: str) -> None:
    """``torch.nn.utils.skip_init`` makes a layer on meta and empties it elsewhere."""
    case = CASES[name]
    kind = type(case.make())
    arguments = inspect.getclosurevars(case.make).nonlocals
    made = torch.nn.utils.skip_init(kind, *arguments["first"], **arguments["settings"])
    made.load_state_dict(trained(case).state_dict())
    assert_like(made, made, case)


@pytest.mark.parametrize("name", ["BatchNorm2d", "LazyBatchNorm2d", "InstanceNorm2d"])
def test_moving_a_layer_that_has_values_keeps_its_counters(name: str) -> None:
    case = CASES[name]
    layer = trained(case)
    layer(torch.full(case.shape, torch.inf))
    for move in (lambda: layer.to("cpu"), layer.double, layer.half, layer.float):
        move()
        assert layer.num_batches_skipped == 1


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, C, 3), nn.BatchNorm2d(C))


def fused(model: nn.Module) -> nn.Module:
    assert set(fuse(model).fused) == {"1"}
    return model


def synchronized(model: nn.Module) -> nn.Module:
    assert nt.convert_to_synchronized(model).layers == ["1", "4"]
    return model


def per_domain(model: nn.Module) -> nn.Module:
    assert nt.convert_to_domains(model, ["day", "night"], default="day").layers == ["1", "4"]
    return model


@pytest.mark.parametrize("convert", [fused, synchronized, per_domain])
def test_a_model_converted_on_meta_is_one_converted_with_values(convert: Callable[[nn.Module], nn.Module]) -> None:
    source = network()
    source(torch.randn(8, 3, 7, 7))
    wanted = convert(copy.deepcopy(source))
    layer = convert(on_meta(network))
    layer.load_state_dict(source.state_dict(), assign=True)
    assert_like(layer, source, Case(lambda: convert(network()), (8, 3, 7, 7), True))
    assert tensors(layer).keys() == tensors(wanted).keys()


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


# The first two are PyTorch's, about a function of its own that it calls; the last is so of its instance norm too.
@pytest.mark.filterwarnings("ignore:Multiple backends are registered:UserWarning")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:`_get_pg_default_device` will be deprecated:UserWarning")
@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", [name for name in NOT_LAZY if "pooled" not in name and "PerDomain" not in name])
def test_sharded_and_broadcast_from_rank_0(name: str) -> None:
    case = CASES[name]
    source = trained(case)
    model = on_meta(case.make)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, source.state_dict(), options=options)
    assert_real(model)
    for training, seed in ((False, 3), (True, 4), (False, 5)):
        for either in (model, source):
            either.train(training)
        torch.testing.assert_close(model(case.input(seed)), source(case.input(seed)), rtol=0, atol=0)
    for key, buffer in source.named_buffers():
        torch.testing.assert_close(model.get_buffer(key), buffer, rtol=0, atol=0, msg=key)
