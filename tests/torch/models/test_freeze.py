"""``freeze`` and ``unfreeze``: what stays as it is for every layer, whatever is done to the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import normwise.torch as nt
from normwise.errors import NormwiseError, UnknownName
from normwise.torch.layers.frozen import FrozenStatistics, unfreeze_statistics
from normwise.torch.models.conversion.freeze import freeze, unfreeze
from normwise.torch.models.fusion.fuse import fuse
from normwise.torch.models.recalibration.recalibrate import recalibrate
from tests.torch.models.layers_to_freeze import ALL, TRACKED, assert_as_before, batch, network, train, used, values

# What records here is deprecated, and says so; people have it all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")


@pytest.mark.parametrize("name", ALL)
def test_nothing_moves_in_a_hundred_steps(name: str) -> None:
    case = ALL[name]
    layer = used(case)
    train(layer, case, 2)  # gradients, which momentum and weight decay would go on with
    report = freeze(layer)
    assert [*report.layers] == [""]
    before = values(layer)
    train(layer, case, 100, set_to_none=False)
    assert_as_before(layer, before)


@pytest.mark.parametrize("name", TRACKED)
def test_a_frozen_layer_computes_what_inference_computes(name: str) -> None:
    case = ALL[name]
    layer = used(case)
    expected = copy.deepcopy(layer).eval().requires_grad_(False)(case.input())
    freeze(layer)
    assert torch.equal(layer.train()(case.input()), expected)
    assert torch.equal(nn.Sequential(layer).train()(case.input()), expected)
    layer.training = True
    assert torch.equal(layer(case.input()), expected)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", [True, False])
def test_unfreeze_gives_back_what_was(name: str, mode: bool) -> None:
    layer = used(ALL[name]).train(mode)
    kinds = [type(part) for part in layer.modules()]
    attributes = [dict(vars(part)) for part in layer.modules()]
    before, learned = values(layer), [each.requires_grad for each in layer.parameters()]
    done = freeze(layer).layers
    assert unfreeze(layer).layers == done
    assert [type(part) for part in layer.modules()] == kinds
    assert [vars(part).keys() for part in layer.modules()] == [each.keys() for each in attributes]
    assert [part.training for part in layer.modules()] == [each["training"] for each in attributes]
    assert [each.requires_grad for each in layer.parameters()] == learned
    assert_as_before(layer, before)


def test_each_part_alone_and_layers_by_name() -> None:
    model = network()
    assert freeze(model, affine=False, layers=["1"]).layers == {"1": ("statistics",)}
    assert (model[1].training, model[1].weight.requires_grad) == (False, True)
    report = freeze(model, layers=["1", "4"])
    assert str(report) == (
        "2 of 3 normalization layers frozen, 1 skipped\n"
        "  frozen       1: affine parameters, nothing else: its statistics are frozen already\n"
        "  frozen       4: affine parameters, nothing else: it keeps no running statistics\n"
        "  skipped      3: it was not asked for"
    )
    assert unfreeze(model, statistics=False).layers == {"1": ("affine parameters",), "4": ("affine parameters",)}
    assert (model[1].training, model[1].weight.requires_grad) == (False, True)
    assert unfreeze(model).layers == {"1": ("statistics",)}
    assert dict(unfreeze(model).skipped) == dict.fromkeys("134", "freeze has not frozen it") | {
        "4": "it keeps no running statistics, freeze has not frozen it"
    }


def test_statistics_alone_still_learn_scale_and_shift() -> None:
    case = ALL["torch.BatchNorm2d"]
    layer = used(case)
    freeze(layer, affine=False)
    before = values(layer)
    train(layer, case, 2)
    moved = [name for name, value in values(layer).items() if not torch.equal(value, before[name])]
    assert moved == ["weight", "bias"]


def test_what_did_not_learn_before_does_not_afterwards_and_the_mode_is_the_models() -> None:
    model = network()
    model[1].bias.requires_grad_(False)
    freeze(model)
    model.eval()
    unfreeze(model)
    assert [each.requires_grad for each in model[1].parameters()] == [True, False]
    assert not model[1].training
    freeze(model)
    model.train()
    unfreeze(model)
    assert model[1].training


def test_parameters_that_were_made_to_learn_again_are_frozen_again() -> None:
    model = network()
    freeze(model)
    model.requires_grad_(True)
    assert freeze(model).layers == dict.fromkeys("134", ("affine parameters",))
    assert not model[1].weight.requires_grad
    unfreeze(model)
    assert model[1].weight.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_checkpoints_are_the_same_and_load_both_ways(name: str) -> None:
    case = ALL[name]
    plain, other = used(case), used(case)
    keys = [*plain.state_dict()]
    freeze(plain)
    assert [*plain.state_dict()] == keys
    other(case.input(5))
    assert not other.load_state_dict(plain.state_dict()).missing_keys
    other(case.input(6))
    assert not plain.load_state_dict(other.state_dict()).unexpected_keys
    before = values(plain)
    assert all(torch.equal(plain.state_dict()[key], value) for key, value in other.state_dict().items())
    train(plain, case, 2)
    assert_as_before(plain, before)


def test_update_bn_and_a_reset_pass_it_by() -> None:
    model = network()
    freeze(model, layers=["1"])
    before = values(model[1])
    update_bn([batch()], model)
    model[1].reset_running_stats()
    assert_as_before(model[1], before)
    assert not torch.equal(model[3].running_mean, torch.zeros(4))


def test_recalibrate_passes_it_by_unless_it_is_named() -> None:
    model = network()
    freeze(model, layers=["1"])
    report = recalibrate(model, [batch()])
    assert dict(report.skipped) == {"1": "it is frozen: normwise.freeze froze its statistics"}
    assert [*recalibrate(model, [batch()], layers=["1"]).recalibrated] == ["1"]
    assert not model.train()[1].training


def test_fuse_leaves_it_and_says_why() -> None:
    model = network()
    freeze(model, layers=["1"])
    why = "normwise.freeze froze its statistics: fuse the model before that, or unfreeze it"
    assert fuse(model).left["1"] == why
    unfreeze(model)
    assert fuse(model).fused == {"1": "relu"}


def test_conversions_afterwards() -> None:
    model = network()
    freeze(model, layers=["1"])
    found = nt.convert_to_synchronized(model)
    assert found.left == {"1": "its statistics are frozen: there is nothing to take together"}
    assert found.layers == ["3"]
    freeze(model)
    assert nt.convert_from_synchronized(model).layers == ["3"]
    assert type(model[3]).__bases__ == (FrozenStatistics, nt.BatchNorm2d)
    domains = nt.convert_to_domains(model, ["day", "night"], default="day")
    assert domains.layers == ["1", "3"]
    before = values(model)
    model.train()(batch())
    assert_as_before(model, before)
    assert set(unfreeze(model).layers) == {"1", "3", "4"}
    assert all(each.requires_grad for each in model.parameters())
    model(batch())
    assert not torch.equal(model[1].of("day").running_mean, torch.zeros(4))


@pytest.mark.parametrize("make", [nn.BatchNorm2d, nt.BatchNorm2d], ids=["torch", "normwise"])
def test_torchs_conversion_to_its_sync_batch_norm_is_refused(make: Callable[[int], nn.Module]) -> None:
    model = nn.Sequential(make(3))
    freeze(model)
    with pytest.raises(NormwiseError) as error:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert str(error.value) == (
        "torch.nn.SyncBatchNorm.convert_sync_batchnorm would make a torch.nn.SyncBatchNorm of a frozen layer, "
        f"FrozenBatchNorm2d({model[0].extra_repr()}), whose statistics would move again: build the model again, of "
        "which it has converted a part by now, and use normwise.torch.convert_to_synchronized."
    )


def test_torch_synchronized_layers_too() -> None:
    model = nn.Sequential(nn.SyncBatchNorm(3), nt.SyncBatchNorm(3))
    assert [*freeze(model).layers] == ["0", "1"]
    before = values(model)
    model.train()(batch())
    assert_as_before(model, before)


def test_what_is_left_and_why() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.other = nn.Linear(3, 3)
            self.other.bias = self.norm.bias

    shared = nn.BatchNorm1d(3)
    shared_too = nn.BatchNorm1d(3)
    shared_too.weight = shared.weight
    parametrized = nn.BatchNorm1d(3)
    nn.utils.parametrize.register_parametrization(parametrized, "weight", nn.Softplus())
    model = nn.ModuleDict(
        {
            "lazy": nn.LazyBatchNorm1d(),
            "tied": Tied(),
            "bare": nn.BatchNorm1d(3, affine=False, track_running_stats=False),
            "instance": nn.InstanceNorm1d(3),
            "averaged": AveragedModel(nn.BatchNorm1d(3)),
            "parametrized": parametrized,
            "shared": shared,
            "shared_too": shared_too,
        }
    )
    report = freeze(model)
    averaged = "AveragedModel takes its buffers from another model, in order: do this to both before"
    assert report.skipped == {
        "lazy": "it has not seen an input yet",
        "bare": "it keeps no running statistics, it has no affine parameters",
        "instance": "it keeps no running statistics, it has no affine parameters",
        "averaged.module": averaged,
    }
    assert report.partly == {
        "tied.norm": "it shares a parameter with tied.other, which would be frozen too",
        "parametrized": "it has parametrizations, which would be left without their class: freeze it before",
    }
    assert unfreeze(model, layers=["shared"]).partly == {
        "shared": "it shares a parameter with shared_too, which would be unfrozen too"
    }
    unfreeze(model)
    assert all(each.requires_grad for each in model["shared"].parameters())


def test_code_is_named_as_not_reached_and_an_empty_model_too() -> None:
    model = nn.Sequential(torch.jit.script(nn.BatchNorm1d(2)), nn.BatchNorm1d(2))
    report = freeze(model)
    assert report.not_reached == {"0": "it is in a ScriptModule, whose layers do not run in Python"}
    assert str(report).splitlines()[0] == "1 of 2 normalization layers frozen, 1 not reached"
    assert str(freeze(nn.Linear(2, 2))) == "nothing frozen: the model has no normalization layer"
    assert report.to_json().startswith('{"layers": {"1": ["statistics", "affine parameters"]}, "skipped": {}, ')


def test_a_class_that_came_above_it_is_named() -> None:
    layer = nn.BatchNorm1d(2)
    freeze(layer, affine=False)
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Softplus())
    assert unfreeze(layer, affine=False).skipped == {
        "": "its class was changed once more after freeze, for example by a parametrization: undo that first"
    }
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert unfreeze(layer, affine=False).layers == {"": ("statistics",)}


def test_wrong_arguments() -> None:
    model = network()
    with pytest.raises(UnknownName) as unknown:
        freeze(model, layers=["bn"])
    assert str(unknown.value) == "unknown normalization layer 'bn'; known: 1, 3, 4."
    with pytest.raises(TypeError) as text:
        unfreeze(model, layers="1")
    assert str(text.value) == "layers must be a list of names, received '1': pass ['1']."
    with pytest.raises(
        ValueError, match=r"^freeze was asked for nothing: pass statistics=True, affine=True, or both.$"
    ):
        freeze(model, statistics=False, affine=False)


def test_an_error_in_the_middle_leaves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    model(batch()).sum().backward()
    before, kinds = values(model), [type(part) for part in model.modules()]
    parts = [vars(part).copy() for part in model.modules()]

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("normwise.torch.models.conversion.freeze._Change._let_learn", fail)
    with pytest.raises(RuntimeError, match=r"^broken$"):
        freeze(model)
    assert [type(part) for part in model.modules()] == kinds
    assert [vars(part) for part in model.modules()] == parts
    assert all(each.requires_grad and each.grad is not None for each in model.parameters())
    assert_as_before(model, before)


def test_classes_are_shared_and_the_layers_line_says_it() -> None:
    first, second = nn.BatchNorm2d(3), nn.BatchNorm2d(5)
    freeze(first), freeze(second)
    assert type(first) is type(second)
    assert repr(first).startswith("FrozenBatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, ")
    assert repr(first).endswith(", frozen)")
    unfreeze_statistics(first)
    assert type(first) is nn.BatchNorm2d
