"""The front door of the operations: whose model it is, and that nothing comes in before it is used."""

import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import PurePosixPath
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import normwise
from normwise import surgery
from normwise.frameworks import framework_of, instead_of


class Layer:
    """A class that stands for a Keras layer."""


def run(program: str) -> str:
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_the_door_brings_in_nothing_until_it_is_used() -> None:
    seen = "print('normwise.surgery' in sys.modules, 'torch' in sys.modules)"
    assert run(f"import sys, normwise; dir(normwise); {seen}") == "False False"
    assert run(f"import sys, normwise; normwise.fuse; {seen}") == "True False"


def test_the_door_is_listed_and_leads_to_the_room() -> None:
    assert "fuse" in dir(normwise)
    assert "fuse" in normwise.__all__
    assert normwise.fuse is surgery.fuse


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'normwise' has no attribute 'fuze'$"):
        normwise.fuze  # noqa: B018  # the look-up is the test


def made() -> None:
    """A function that stands for one that makes a model."""


NO_MODELS: list[tuple[Any, str]] = [
    (None, "NoneType: pass the model itself"),
    (3, "int: pass the model itself"),
    (Layer(), "Layer: pass the model itself"),
    (Layer, "the class Layer: pass an instance of it"),
    ("resnet18", "the string 'resnet18': build the model, load its weights, and pass it"),
    ("m" * 100, f"the string '{'m' * 77}...': build the model, load its weights, and pass it"),
    (PurePosixPath("a/b.pt"), "the path 'a/b.pt': build the model, load its weights, and pass it"),
    ({}, "a dict: build the model, load what is in it with load_state_dict, and pass the model"),
    (OrderedDict(), "an OrderedDict: build the model, load what is in it with load_state_dict, and pass the model"),
    ([], "a list: pass one model at a time"),
    ((1, 2), "a tuple: pass one model at a time"),
    (made, "the function made: call it, and pass the model that it returns"),
    (partial(made), "the function made: call it, and pass the model that it returns"),
    (len, "the function len: call it, and pass the model that it returns"),
]


@pytest.mark.parametrize(("wrong", "received"), NO_MODELS)
def test_what_is_no_model_is_refused(wrong: Any, received: str) -> None:
    with pytest.raises(TypeError) as refused:
        normwise.fuse(wrong)
    assert str(refused.value) == (f"fuse needs a PyTorch model (torch.nn.Module), received {received}.")


def test_a_model_of_keras_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    keras: ModuleType | SimpleNamespace = SimpleNamespace(Layer=Layer)
    monkeypatch.setitem(sys.modules, "keras", keras)  # all that is asked of it
    assert framework_of(Layer()) == "keras"
    model: Any = Layer()
    with pytest.raises(TypeError) as refused:
        normwise.fuse(model)
    assert str(refused.value) == (
        "fuse needs a PyTorch model (torch.nn.Module), received a Keras model (Layer): "
        "pass activation= to normwise.keras.BatchNormalization, which does it in one step."
    )


@pytest.mark.parametrize("name", ["adapting", "paused_statistics", "param_groups"])
def test_what_is_for_pytorch_alone_says_what_keras_has_instead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(Layer=Layer))
    settings = {"weight_decay": 0.1} if name == "param_groups" else {}
    with pytest.raises(TypeError) as refused:
        getattr(normwise, name)(Layer(), **settings)
    start = f"{name} needs a PyTorch model (torch.nn.Module), received a Keras model (Layer): "
    assert str(refused.value) == f"{start}{instead_of(name)}."


@pytest.mark.parametrize("name", ["recalibrate", "adapt"])
def test_what_is_for_both_names_both(name: str) -> None:
    with pytest.raises(TypeError) as refused:
        getattr(normwise, name)("resnet18", [])
    assert str(refused.value) == (
        f"{name} needs a PyTorch or Keras model (torch.nn.Module or keras.Model), received the string 'resnet18': "
        "build the model, load its weights, and pass it."
    )


def test_nothing_is_a_model_where_no_framework_is_loaded() -> None:
    program = "from normwise.frameworks import framework_of; print(framework_of(object()))"
    assert run(program) == "None"
