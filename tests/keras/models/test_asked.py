"""Every door by listing, on Keras: names of layers, numbers and functions that are none are refused in a sentence."""

from __future__ import annotations

import inspect
import math
from typing import Any

import keras
import numpy as np
import pytest

import normwise
from normwise.errors import NormwiseError, UnknownName
from normwise.surgery.door import TABLE

X = np.array([[1.0], [3.0]], dtype="float32")
MORE: dict[str, tuple[Any, ...]] = {"recalibrate": (X,), "adapt": (X,)}


def network() -> Any:
    bn = keras.layers.BatchNormalization(name="bn")
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1), bn], name="model")


def state(model: Any) -> list[Any]:
    return [value.tolist() for value in model.get_weights()]


def with_keyword(keyword: str) -> list[str]:
    doors = [name for name, rooms in TABLE.items() if "keras" in rooms and name != "examine"]
    return [name for name in doors if keyword in inspect.signature(TABLE[name]["keras"].function()).parameters]


def test_the_listing_finds_the_doors() -> None:
    assert {"adapt", "fold", "freeze", "recalibrate", "swap", "unfreeze"} <= {*with_keyword("layers")}


@pytest.mark.parametrize("name", with_keyword("layers"))
def test_one_name_in_the_place_of_a_list_is_refused_alike_by_every_door(name: str) -> None:
    model = network()
    before = state(model)
    with pytest.raises(TypeError, match=r"^layers must be a list of names, received 'bn': pass \['bn'\]\.$"):
        getattr(normwise, name)(model, *MORE.get(name, ()), layers="bn")
    with pytest.raises(TypeError, match=r"^layers must be a list of names, received 1: pass the names as "):
        getattr(normwise, name)(model, *MORE.get(name, ()), layers=1)
    with pytest.raises(UnknownName, match=r"^unknown (batch norm|normalization layer) 'b'; known: model/bn\.$"):
        getattr(normwise, name)(model, *MORE.get(name, ()), layers=["b"])
    assert state(model) == before


NUMBERS = [("adapt", "prior"), ("adapt", "memory"), ("recalibrate", "tolerance"), ("recalibrate", "memory")]


@pytest.mark.parametrize("value", ["4", -1, math.nan, True])
@pytest.mark.parametrize(("name", "keyword"), NUMBERS)
def test_what_is_no_number_is_refused_in_a_sentence(name: str, keyword: str, value: Any) -> None:
    model = network()
    before = state(model)
    with pytest.raises(NormwiseError, match=rf"received {value!r}:"):
        getattr(normwise, name)(model, *MORE.get(name, ()), **{keyword: value})
    assert state(model) == before


@pytest.mark.parametrize("name", ["recalibrate", "adapt"])
def test_a_batch_size_that_is_no_number_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(NormwiseError, match=rf"^{name} needs batches of 1 sample or more, received batch_size='a':"):
        getattr(normwise, name)(network(), X, batch_size="a")


@pytest.mark.parametrize("name", with_keyword("forward_fn"))
def test_a_forward_fn_that_is_no_function_is_refused_alike_by_every_door(name: str) -> None:
    more = {"fold": {"batches": X}, "swap": {"calibrate": X}}.get(name, {})
    with pytest.raises(NormwiseError, match=r"^forward_fn must be a function of the model and a batch, received 3: "):
        getattr(normwise, name)(network(), *MORE.get(name, ()), forward_fn=3, **more)
