"""Doors with Keras models: keywords of the other framework, conversions, and that torch stays out."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest

import normwise
from normwise.errors import NothingChanged, UnsuitableModel
from normwise.keras import BatchNormalization, convert, to_keras
from normwise.surgery.door import TABLE

X = np.array([[1.0], [3.0]], dtype="float32")


def network(layer: Any = None) -> Any:
    return keras.Sequential([keras.Input((1,)), layer or keras.layers.BatchNormalization(name="bn")], name="model")


def moving_mean(model: Any) -> float:
    return float(keras.ops.convert_to_numpy(model.layers[0].moving_mean)[0])


@pytest.mark.parametrize("name", ["recalibrate", "adapt"])
@pytest.mark.parametrize("value", [False, None, 1, "group"])
def test_a_keyword_for_pytorch_is_refused_by_name(name: str, value: Any) -> None:
    model = network()
    with pytest.raises(TypeError) as refused:
        getattr(normwise, name)(model, X, distributed=value)
    assert str(refused.value) == (
        f"{name} takes distributed for PyTorch models only, received it with a Keras model: leave it out."
    )
    assert moving_mean(model) == 0.0


def test_its_default_asks_for_nothing_and_what_is_for_keras_arrives() -> None:
    model = network()
    report = normwise.recalibrate(model, X, distributed=True, batch_size=1)
    assert (report.batches, report.samples) == (2, 2)
    assert moving_mean(model) == 2.0


def test_a_misspelt_keyword_is_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"^recalibrate has no keyword 'batchsize': did you mean 'batch_size'\?$"):
        normwise.recalibrate(network(), X, batchsize=1)  # type: ignore[call-arg]  # on purpose


@pytest.mark.parametrize("name", [name for name, rooms in TABLE.items() if "keras" in rooms])
def test_a_functions_keywords_are_among_the_doors_with_the_same_defaults(name: str) -> None:
    shown = inspect.signature(getattr(normwise, name)).parameters
    behind = inspect.signature(TABLE[name]["keras"].function()).parameters
    assert {each.name: each.default for each in behind.values()}.items() <= {
        each.name: each.default for each in shown.values()
    }.items()


def test_conversions_are_those_of_the_room() -> None:
    one, other = network(), network()
    assert normwise.convert_from_keras(one).layers == convert(other).layers == ["model/bn"]
    assert type(one.layers[0]) is type(other.layers[0]) is BatchNormalization
    assert normwise.convert_to_keras(one).layers == to_keras(other).layers == ["model/bn"]
    assert type(one.layers[0]) is type(other.layers[0]) is keras.layers.BatchNormalization


def test_a_conversion_that_changes_nothing_is_told() -> None:
    with pytest.warns(NothingChanged, match=r"^nothing converted: the model has no batch norm to convert$"):
        normwise.convert_from_keras(network(BatchNormalization()))

    class Own(keras.layers.BatchNormalization):
        """Somebody's own layer."""

    with pytest.warns(NothingChanged) as found:
        normwise.convert_from_keras(network(Own(name="own")))
    assert str(found[0].message) == (
        "0 of 1 batch norms converted, 1 left\n"
        "  left       model/own: Own is a class of its own, which may do something else"
    )
    assert found[0].filename == __file__


@pytest.mark.parametrize("name", [name for name, rooms in TABLE.items() if "keras" not in rooms])
def test_what_is_for_pytorch_alone_is_refused(name: str) -> None:
    door = getattr(normwise, name)
    required = [each.name for each in inspect.signature(door).parameters.values() if each.default is each.empty]
    with pytest.raises(UnsuitableModel) as refused:
        door(network(), **dict.fromkeys(required[1:]))
    start = f"{name} needs a PyTorch model (torch.nn.Module), received a Keras model (Sequential): "
    assert str(refused.value).startswith(start)


def test_doors_leave_torch_out_where_it_is_not_the_backend() -> None:
    program = (
        "import sys, keras, normwise, numpy\n"
        "model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])\n"
        "normwise.convert_from_keras(model)\n"
        "normwise.recalibrate(model, numpy.ones((4, 1), 'float32'))\n"
        "print(keras.backend.backend() == 'torch', 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    on_torch, imported = process.stdout.split()
    assert on_torch == imported
