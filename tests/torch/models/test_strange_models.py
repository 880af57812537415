"""Every operation on a whole model, given what torch makes of models, wrappers of models, and what is no model at all.

It works as on the plain model, or it says in one sentence what is wrong, what was received and what to do.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.swa_utils import AveragedModel

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError, NothingChanged, UnsuitableModel
from normwise.torch.models.fusion.fuse import fuse
from normwise.torch.models.paused import paused_statistics
from normwise.torch.models.recalibration.adapt import adapt
from normwise.torch.models.recalibration.adapting import adapting
from normwise.torch.models.recalibration.recalibrate import recalibrate
from tests.torch.operations import OPERATIONS, Holder, X, network

# PyTorch warns that torch.jit is deprecated; that it is still used is why this is here.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.* is deprecated:DeprecationWarning")

ON_CODE = ("paused_statistics",)
"""Operations that can do with what torch.jit and torch.export make."""


def loaded() -> Any:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(network()), file)
    file.seek(0)
    return torch.jit.load(file)


def program(training: bool) -> torch.export.ExportedProgram:
    return torch.export.export(network().train(training), (X,))


SCRIPT = (
    "a model whose layers run in Python, received a ScriptModule (a Sequential, compiled by torch.jit): "
    "pass the model that it was made of, and trace or script it again afterwards"
)
EXPORTED = (
    "a model whose layers run in Python, received the module of an exported program (by torch.export): "
    "pass the model that was exported, and export it again afterwards"
)
MODULE = "a torch.nn.Module, received "
NO_MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "ExportedProgram": (
        lambda: program(False),
        f"{MODULE}an ExportedProgram, whose layers are operations in a graph: pass the model that was exported",
    ),
    "class": (lambda: nn.BatchNorm2d, f"{MODULE}the class BatchNorm2d: pass an instance of it"),
    "state_dict": (
        lambda: network().state_dict(),
        f"{MODULE}an OrderedDict: build the model, load what is in it with load_state_dict, and pass the model",
    ),
    "path": (lambda: "a.pt", f"{MODULE}the string 'a.pt': build the model, load its weights, and pass it"),
    "None": (lambda: None, f"{MODULE}NoneType: pass the model itself"),
    "function": (lambda: network, f"{MODULE}the function network: call it, and pass the model that it returns"),
    "compiled function": (
        lambda: torch.compile(network),
        f"{MODULE}the function network: call it, and pass the model that it returns",
    ),
    "list": (lambda: [network()], f"{MODULE}a list: pass one model at a time"),
    "tensor": (lambda: X, f"{MODULE}Tensor: pass the model itself"),
    "optimizer": (lambda: torch.optim.SGD(network().parameters()), f"{MODULE}SGD: pass the model itself"),
}
CODE: dict[str, tuple[Callable[[], Any], str]] = {
    "traced": (lambda: torch.jit.trace(network().eval(), X), SCRIPT),
    "scripted": (lambda: torch.jit.script(network()), SCRIPT),
    "loaded": (loaded, SCRIPT),
    "frozen": (
        lambda: torch.jit.freeze(torch.jit.script(network().eval())),
        SCRIPT,
    ),
    "averaged and scripted": (lambda: AveragedModel(torch.jit.script(network())), SCRIPT),
    "exported in training": (lambda: program(True).module(), EXPORTED),
    "exported for inference": (lambda: program(False).module(), EXPORTED),
}
FROZEN = ("param_groups", "frozen")  # without parameters


@functools.cache
def strange(kind: str) -> Any:
    """The object that no operation changes, made once."""
    return (NO_MODELS | CODE)[kind][0]()


def refused(operation: Callable[[Any], Any], model: Any) -> str:
    with pytest.raises(UnsuitableModel) as error:
        operation(model)
    assert isinstance(error.value, TypeError)
    assert isinstance(error.value, NormwiseError)
    return str(error.value)


@pytest.mark.parametrize("kind", NO_MODELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_no_model_is_refused(name: str, kind: str) -> None:
    assert refused(OPERATIONS[name], strange(kind)) == f"{name} needs {NO_MODELS[kind][1]}."


@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ON_CODE])
def test_a_model_that_is_code_is_refused(name: str, kind: str) -> None:
    if (name, kind) == FROZEN:
        with pytest.raises(NormwiseError, match=r"^RecursiveScriptModule has no parameters, so there is nothing to"):
            OPERATIONS[name](strange(kind))
        return
    operation = OPERATIONS[name] if name != "adapting" else adapting
    assert refused(operation, strange(kind)) == f"{name} needs {CODE[kind][1]}."


@pytest.mark.parametrize("kind", [*NO_MODELS, *CODE])
@pytest.mark.parametrize("name", ["recalibrate", "adapt", "adapting", "fuse"])
def test_the_front_door_says_it_too(name: str, kind: str) -> None:
    arguments = ([X],) if name in ("recalibrate", "adapt") else ()
    needed = (
        "a PyTorch or Keras model (torch.nn.Module or keras.Model)"
        if arguments
        else "a PyTorch model (torch.nn.Module)"
    )
    sentence = (NO_MODELS | CODE)[kind][1].replace("a torch.nn.Module", needed)
    assert (
        refused(lambda model: getattr(normwise, name)(model, *arguments), strange(kind)) == f"{name} needs {sentence}."
    )


KERAS = {
    "recalibrate": "call normwise.recalibrate, which takes models of both",
    "adapt": "call normwise.adapt, which takes models of both",
    "adapting": "call normwise.adapt on each lot of new data, and undo() what it reports before the next",
    "paused_statistics": "call the model with training=False, or its batch norms with trainable = False",
    "fuse": "pass activation= to normwise.keras.BatchNormalization, which does it in one step",
    "param_groups": "call the optimizer's exclude_from_weight_decay with the names 'gamma' and 'beta'",
    "save_memory": "call normwise.save_memory, which takes models of both",
    "convert_to_synchronized": "pass synchronized=True to normwise.keras.BatchNormalization",
    "convert_to_domains": "build the model with normwise.keras.PerDomainBatchNormalization",
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_keras_model_on_the_torch_backend_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, a layer of Keras is a ``torch.nn.Module`` too."""
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(Layer=Holder))  # all that is asked of it
    instead = KERAS.get(name, "there is no such operation for Keras, so build the model with PyTorch for it")
    assert refused(OPERATIONS[name], Holder(network())) == (
        f"{name} needs a PyTorch model (torch.nn.Module), received a Keras model (Holder): {instead}."
    )


IN_SCRIPT = "it is in a ScriptModule, whose layers do not run in Python"
IN_GRAPH = "it is an operation in a graph that {} made, and no layer"
PARTLY: dict[str, tuple[Callable[[], Any], str, str]] = {
    "holds a scripted one": (lambda: Holder(torch.jit.script(network())), "inner.1", IN_SCRIPT),
    "holds a traced one": (lambda: Holder(torch.jit.trace(network().eval(), X)), "inner.1", IN_SCRIPT),
    "holds an exported one": (
        lambda: Holder(program(True).module()),
        "inner.batch_norm",
        IN_GRAPH.format("torch.export"),
    ),
    "holds operations": (
        lambda: Holder(make_fx(network().eval())(X)),
        "inner.native_batch_norm",
        IN_GRAPH.format("torch.fx"),
    ),
}


@pytest.mark.parametrize("kind", PARTLY)
@pytest.mark.parametrize("name", ["param_groups", "accumulate_gradients", "forward_together"])
def test_what_would_be_wrong_without_a_word_is_refused_where_a_part_is_code(name: str, kind: str) -> None:
    make, place, why = PARTLY[kind]
    assert refused(OPERATIONS[name], make()) == (
        f"{name} needs a model whose normalization layers run in Python, received one with {place!r}, and {why}: "
        "pass the model as it was before that."
    )


@pytest.mark.parametrize("kind", PARTLY)
def test_reports_name_what_is_code(kind: str) -> None:
    make, place, why = PARTLY[kind]
    assert fuse(make()).left == {place: why}
    assert nt.pool_statistics(make()).skipped == {place: why, "norm": "no process has trained it yet"}
    assert nt.convert_to_synchronized(make())[1:] == (["norm"], {place: why})
    assert nt.convert_to_domains(make(), ["day", "night"])[1:] == (["norm"], {place: why})
    model = make()
    if kind == "holds an exported one":
        for name in ("recalibrate", "adapt"):
            assert refused(OPERATIONS[name], model) == (
                f"{name} needs a model that can be put into inference mode, received one with 'inner', whose mode "
                "torch.export has fixed: pass the model with that part as it was before the export."
            )
        return
    assert recalibrate(model, [X]).skipped == {place: why}
    assert adapt(model, [X]).skipped == {place: why}
    model.eval()
    with adapting(model) as adaptation:
        model(X)
    assert adaptation.report().skipped == {place: why}


@pytest.mark.parametrize("kind", ["scripted", "exported in training"])
def test_statistics_in_code_are_given_back(kind: str) -> None:
    model = CODE[kind][0]()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with paused_statistics(model):
        model(X)
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    model(X)
    assert not all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_statistics_of_operations_are_given_back() -> None:
    norm = nn.BatchNorm2d(3)
    layer = make_fx(lambda x: nn.functional.batch_norm(x, norm.running_mean, norm.running_var, training=True))(X)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with paused_statistics(layer):
        layer(X)
    assert len(before) == 2
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())


@pytest.mark.parametrize("name", ["recalibrate", "adapt"])
def test_models_without_a_forward(name: str) -> None:
    models: dict[nn.Module, str] = {
        nn.ModuleList([network()]): "a ModuleList",
        nn.ModuleDict({"one": network()}): "a ModuleDict",
    }
    for model, kind in models.items():
        assert refused(OPERATIONS[name], model) == (
            f"{name} needs a model with a forward, received {kind}, which has none: pass forward_fn, a function of the "
            "model and a batch, too."
        )
        operation = recalibrate if name == "recalibrate" else adapt
        report = operation(model, [X], forward_fn=lambda held, x: next(held.children())(x))
        assert report.samples == 8


def test_a_report_of_nothing_warns_that_it_is_in_code() -> None:
    model = nn.Sequential(torch.jit.script(network()))
    with pytest.warns(NothingChanged, match=r"skipped +0\.1: it is in a ScriptModule, whose layers do not run in Pyt"):
        normwise.recalibrate(model, [X])
