"""``param_groups``: what does not decay, what is there twice, and that nothing is forgotten."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.torch.models.param_groups import param_groups


def names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    inside = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


def spared(model: nn.Module, **settings: Any) -> set[str]:
    """The names of the parameters that do not decay; each call checks that every parameter is in one group, once."""
    groups = param_groups(model, 0.1, **settings)
    everything = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(everything) == sorted({id(parameter) for parameter in model.parameters()})
    return set().union(*(names(model, group) for group in groups if group["weight_decay"] == 0))


NORMS: dict[str, nn.Module] = {
    "torch.BatchNorm1d": nn.BatchNorm1d(4),
    "torch.BatchNorm2d": nn.BatchNorm2d(4),
    "torch.BatchNorm3d": nn.BatchNorm3d(4),
    "torch.SyncBatchNorm": nn.SyncBatchNorm(4),
    "torch.LazyBatchNorm2d": nn.LazyBatchNorm2d(),
    "torch.InstanceNorm2d": nn.InstanceNorm2d(4, affine=True),
    "torch.GroupNorm": nn.GroupNorm(2, 4),
    "torch.LayerNorm": nn.LayerNorm(4),
    "ours.BatchNorm2d": nt.BatchNorm2d(4),
    "ours.LazyBatchNorm2d": nt.LazyBatchNorm2d(),
    "ours.GhostBatchNorm2d": nt.GhostBatchNorm2d(4, num_splits=2),
    "ours.BatchRenorm2d": nt.BatchRenorm2d(4),
}


class LlamaRMSNorm(nn.Module):
    """A norm as other packages have it: known by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class Whitener(nn.Module):
    """A normalization layer that does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class ConditionalNorm(nn.Module):
    """Normalizes by a layer of its own, and learns what makes the scale: that decays."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.to_scale = nn.Linear(2, 4)
        self.floor = nn.Parameter(torch.zeros(4))


def test_torchs_optimizer_lets_gamma_decay() -> None:
    layer = nn.BatchNorm1d(4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, weight_decay=0.1)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert layer.weight.tolist() == pytest.approx([0.9] * 4)


def test_an_optimizer_with_our_groups_does_not() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nt.BatchNorm1d(4))
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(param_groups(model, 0.1), lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model[1].weight, before[1].weight)
    torch.testing.assert_close(model[0].weight, 0.9 * before[0].weight)


@pytest.mark.parametrize("name", NORMS)
def test_scale_and_shift_of_every_layer(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), NORMS[name])
    assert spared(model) == {"1.weight", "1.bias"}
    assert spared(model, decay_norm=True) == set()
    assert spared(model, decay_bias=False) == {"0.bias", "1.weight", "1.bias"}
    assert spared(model, decay_bias=False, decay_norm=True) == {"0.bias"}


def test_layers_of_other_packages() -> None:
    model = nn.Sequential(LlamaRMSNorm(), Whitener(), ConditionalNorm(), nn.RMSNorm(4))
    assert spared(model) == {"0.scale", "2.floor", "3.weight"}
    assert spared(model, norm_types=(Whitener,)) == {"0.scale", "1.scale", "2.floor", "3.weight"}


@pytest.mark.parametrize(
    "name", ["Norm", "LayerNorm2d", "EvoNorm2dS0", "FrozenBatchNorm2d", "BatchNormalization", "LlamaRMSNorm"]
)
def test_names_that_say_so(name: str) -> None:
    layer = type(name, (Whitener,), {})()
    assert spared(nn.Sequential(layer, nn.Linear(1, 1))) == {"0.scale"}


@pytest.mark.parametrize("name", ["Normal", "Normalizer", "NormalizedLinear", "ConvNormAct", "PreNormBlock"])
def test_names_that_say_something_else(name: str) -> None:
    assert spared(type(name, (Whitener,), {})()) == set()


def test_a_shared_parameter_counts_once_and_decays_only_if_all_of_its_places_do() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    norm = nn.BatchNorm1d(4)
    second.weight = first.weight
    first.bias = norm.bias
    assert spared(nn.Sequential(first, second, norm, norm)) == {"0.bias", "2.weight"}
    assert spared(nn.Sequential(norm, second, first)) == {"0.weight", "0.bias"}


def test_layers_per_domain_share_their_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nt.PerDomain(nt.BatchNorm1d(4), ["day", "night"]))
    assert spared(model) == {"1.weight", "1.bias"}


def test_parametrized_ones_are_what_their_layer_says() -> None:
    class Positive(nn.Module):
        """A weight that stays above 0."""

        def forward(self, x: Tensor) -> Tensor:
            return x.exp()

    norm: Any = nn.BatchNorm1d(4)
    nn.utils.parametrize.register_parametrization(norm, "weight", Positive(), unsafe=True)
    linear = parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(linear, norm)
    assert spared(model) == {"1.parametrizations.weight.original", "1.bias"}
    assert spared(model, decay_norm=True, decay_bias=False) == {"0.bias"}


def test_frozen_ones_are_in_and_the_order_is_the_models() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    decayed, rest = param_groups(model, 0.1)
    assert [id(parameter) for parameter in decayed["params"]] == [id(model[k].weight) for k in (0,)] + [
        id(parameter) for parameter in (model[0].bias, model[2].weight, model[2].bias)
    ]
    assert (decayed["name"], rest["name"], rest["weight_decay"]) == ("decayed", "not decayed", 0.0)


def test_no_group_is_empty() -> None:
    assert [group["name"] for group in param_groups(nn.Linear(2, 2), 0.1)] == ["decayed"]
    assert [group["name"] for group in param_groups(nn.BatchNorm1d(2), 0.1)] == ["not decayed"]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_is_saved_and_loaded(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nt.BatchNorm1d(4))
    optimizer = kind(param_groups(model, 0.1), lr=0.1)
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    other = kind(param_groups(copy.deepcopy(model), 0.1), lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert [group["weight_decay"] for group in other.param_groups] == [0.1, 0.0]


def test_what_it_refuses_and_the_front_door() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert [len(group["params"]) for group in normwise.param_groups(model, 0.1, decay_bias=False)] == [1, 3]
    wrong: Any = [model]
    with pytest.raises(TypeError) as refused:
        param_groups(wrong, 0.1)
    assert str(refused.value) == "param_groups needs a torch.nn.Module, received a list: pass one model at a time."
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(NormwiseError) as failed:
            param_groups(model, value)
        assert str(failed.value) == f"weight_decay must be 0 or more, received {value}: pass for example 5e-4."
    with pytest.raises(NormwiseError) as failed:
        param_groups(nn.ReLU(), 0.1)
    assert str(failed.value) == "ReLU has no parameters, so there is nothing to optimize: pass a model."
