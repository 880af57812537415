"""``make_fx``, ``functionalize`` and both together: PyTorch's own operators, right for the inputs that come later."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.func import functional_call, functionalize, grad, hessian, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import normwise.torch as nt
from normwise.kernels.recording import recording
from tests.torch.recorded_layers import NAMES, batch, made, numbers

# PyTorch scripts some of its own formulas when forward mode is used for the first time, and warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:DeprecationWarning")
KINDS = ["BatchNorm1d", *(name for name in NAMES if not name.startswith("Lazy") and not name.endswith(("1d", "3d")))]


def called_with(layer: Any) -> Any:
    def call(x: Tensor, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Any:
        return functional_call(layer, (parameters, buffers), (x,))

    return call


def assert_right(graph: Any, layer: Any, x: Tensor, buffers: dict[str, Tensor]) -> None:
    torch.testing.assert_close(graph(x, dict(layer.named_parameters()), buffers), layer(x), rtol=1e-4, atol=1e-4)
    for name, value in layer.named_buffers():
        torch.testing.assert_close(buffers[name], value, rtol=1e-4, atol=1e-4)


def only_torchs(graph: fx.GraphModule) -> bool:
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return bool(called) and not any("normwise" in name for name in called)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(
    ("mode", "before_dispatch"), [("real", False), ("fake", False), ("symbolic", False), ("real", True)]
)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", KINDS)
def test_make_fx(name: str, training: bool, mode: Any, before_dispatch: bool, size: str) -> None:
    layer = made(name, size).train(training)
    record = make_fx(called_with(copy.deepcopy(layer)), tracing_mode=mode, pre_dispatch=before_dispatch)
    graph = record(batch(name, size), dict(layer.named_parameters()), numbers(layer))
    assert only_torchs(graph)
    buffers = numbers(layer)
    for _ in range(2):
        assert_right(graph, layer, batch(name, size), buffers)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", KINDS)
def test_functionalize_alone_and_recorded(name: str, training: bool, size: str) -> None:
    layer = made(name, size).train(training)
    function = functionalize(called_with(copy.deepcopy(layer)))
    before = numbers(layer)
    graph = make_fx(function)(batch(name, size), dict(layer.named_parameters()), numbers(layer))
    assert only_torchs(graph)
    for call in (function, graph):
        assert_right(
            call, copy.deepcopy(layer), batch(name, size), {key: value.clone() for key, value in before.items()}
        )


@pytest.mark.parametrize("layer", [nt.BatchNorm2d(6), nt.DecorrelatedBatchNorm2d(6), nt.InstanceNorm2d(6)], ids=str)
def test_a_recorded_gradient(layer: Any) -> None:
    layer = copy.deepcopy(layer).eval()

    def loss(x: Tensor) -> Tensor:
        found: Tensor = layer(x).pow(3).sum()
        return found

    x, other = batch("BatchNorm2d", samples=4), batch("BatchNorm2d", samples=4)
    many, others = (tensor.unflatten(0, (2, 2)) for tensor in (x, other))
    torch.testing.assert_close(make_fx(grad(loss))(x)(other), grad(loss)(other), rtol=1e-4, atol=1e-4)
    each = vmap(grad(loss))
    torch.testing.assert_close(make_fx(each)(many)(others), each(others), rtol=1e-4, atol=1e-4)


def test_a_recorded_second_derivative_of_whitening_is_right() -> None:
    layer = nt.DecorrelatedBatchNorm1d(2, track_running_stats=False, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        found: Tensor = layer(x).pow(3).sum()
        return found

    x, other = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(make_fx(hessian(loss))(x)(other), hessian(loss)(other))


def test_what_records_and_what_does_not() -> None:
    found: list[bool] = []

    def asked(x: Tensor) -> Tensor:
        found.append(recording())
        return x + 1

    asked(torch.ones(1))
    grad(lambda x: asked(x).sum())(torch.ones(1))
    with torch.device("meta"):
        asked(torch.ones(1))
    assert found == [False] * 3
    make_fx(asked)(torch.ones(1))
    make_fx(asked, pre_dispatch=True)(torch.ones(1))
    make_fx(asked, tracing_mode="symbolic")(torch.ones(1))
    torch.compile(asked, backend="eager")(torch.ones(1))
    assert found[3:] == [True] * 4
