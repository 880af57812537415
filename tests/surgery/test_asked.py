"""Every door by listing, on PyTorch: names of layers, numbers and functions that are none are refused in a sentence."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normwise
from normwise.errors import NormwiseError, UnknownName
from normwise.surgery.door import TABLE

DATA = [torch.tensor([[1.0], [3.0]])]
MORE: dict[str, tuple[Any, ...]] = {"recalibrate": (DATA,), "adapt": (DATA,), "forward_together": (DATA,)}


def network() -> Any:
    return nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))


def state(model: nn.Module) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def with_keyword(keyword: str) -> list[str]:
    doors = [name for name, rooms in TABLE.items() if "torch" in rooms and name != "examine"]
    return [name for name in doors if keyword in inspect.signature(TABLE[name]["torch"].function()).parameters]


def test_the_listing_finds_the_doors() -> None:
    assert {"adapt", "adapting", "fold", "freeze", "recalibrate", "swap", "unfreeze"} <= {*with_keyword("layers")}


@pytest.mark.parametrize("name", with_keyword("layers"))
def test_one_name_in_the_place_of_a_list_is_refused_alike_by_every_door(name: str) -> None:
    model = network()
    before = state(model)
    with pytest.raises(TypeError, match=r"^layers must be a list of names, received '1': pass \['1'\]\.$"):
        getattr(normwise, name)(model, *MORE.get(name, ()), layers="1")
    with pytest.raises(TypeError, match=r"^layers must be a list of names, received 1: pass the names as named_mod"):
        getattr(normwise, name)(model, *MORE.get(name, ()), layers=1)
    with pytest.raises(UnknownName, match=r"^unknown (batch norm|normalization layer) 'bn'; known: 1\.$"):
        getattr(normwise, name)(model, *MORE.get(name, ()), layers=["bn"])
    assert state(model) == before


NUMBERS = [("adapt", "prior"), ("adapting", "prior"), ("adapting", "memory"), ("adapt", "memory")]
NUMBERS += [("recalibrate", "tolerance"), ("recalibrate", "memory"), ("param_groups", "weight_decay")]


@pytest.mark.parametrize("value", ["4", "a", -1, math.nan, [2], True])
@pytest.mark.parametrize(("name", "keyword"), NUMBERS)
def test_what_is_no_number_is_refused_in_a_sentence(name: str, keyword: str, value: Any) -> None:
    model = network()
    before = state(model)
    with pytest.raises(NormwiseError, match=rf"received {value!r}:".replace("[", r"\[").replace("]", r"\]")):
        getattr(normwise, name)(model, *MORE.get(name, ()), **{keyword: value})
    assert state(model) == before


@pytest.mark.parametrize("value", [np.float32(2), 2])
def test_numbers_of_any_library_are_numbers(value: Any) -> None:
    assert normwise.adapt(network(), DATA, prior=value).samples == 2
    with normwise.adapting(network(), prior=value, memory=value):
        pass


@pytest.mark.parametrize("name", with_keyword("forward_fn"))
def test_a_forward_fn_that_is_no_function_is_refused_alike_by_every_door(name: str) -> None:
    model = network()
    before = state(model)
    more = {"fold": {"batches": DATA}, "swap": {"calibrate": DATA}}.get(name, {})
    with pytest.raises(NormwiseError, match=r"^forward_fn must be a function of the model and a batch, received 3: "):
        getattr(normwise, name)(model, *MORE.get(name, ()), forward_fn=3, **more)
    assert state(model) == before


@pytest.mark.parametrize("name", with_keyword("distributed"))
@pytest.mark.parametrize("value", ["x", 1, [0]])
def test_processes_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(NormwiseError, match=rf"^{name} needs to know which processes work together, received "):
        getattr(normwise, name)(network(), *MORE.get(name, ()), distributed=value)
