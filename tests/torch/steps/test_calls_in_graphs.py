"""The short way of a plain call under torch.compile gives what the general way gives, and has few guards."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import normwise.torch as nt
from normwise.kernels import choose
from normwise.torch.layers import tracked
from normwise.torch.steps.normalize_in_graph import normalize_in_graph

# What the compiler compares before a call of one of our layers, beyond PyTorch's two: in training the counter of
# batches that were left out, and the settings that PyTorch does not have. PyTorch 2.11 compares a tensor in more parts.
MORE_GUARDS = {True: 12 if torch.__version__ >= "2.13" else 15, False: 3}


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> None:
    torch.compiler.reset()


def run(layer: nn.Module, *inputs: Tensor, training: bool, **settings: Any) -> list[Tensor] | str:
    """All that a compiled call gives and changes: output, gradients, buffers; or the error's text."""
    layer = copy.deepcopy(layer).train(training)
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    torch.compiler.reset()
    try:
        y = torch.compile(layer, fullgraph=True, backend="eager", **settings)(*leaves)
        y.backward(torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape))
    except Exception as error:  # of whatever class the compiler makes of it
        return reason(str(error))
    gradients = [tensor.grad for tensor in (*leaves, *layer.parameters()) if tensor.grad is not None]
    return [y.detach(), *gradients, *layer.buffers()]


def reason(text: str) -> str:
    """The operator's own error, which PyTorch's releases wrap in different words; else the first line."""
    inside = re.search(r"""got (\w+\((['"]).*?\2\))""", text.replace("\\", ""))
    return inside[1] if inside else text.partition("\n")[0].partition("from user code")[0]


def both_ways(monkeypatch: pytest.MonkeyPatch, layer: nn.Module, *inputs: Tensor, training: bool) -> tuple[Any, Any]:
    short = run(layer, *inputs, training=training)
    with monkeypatch.context() as patch:
        patch.setattr(tracked, "normalize_in_graph", lambda *_: None)
        return short, run(layer, *inputs, training=training)


def assert_equal(found: Any, right: Any) -> None:
    assert type(found) is type(right), (found, right)
    if isinstance(right, str):
        assert found == right
        return
    assert len(found) == len(right)
    for mine, other in zip(found, right, strict=True):
        assert mine.dtype is other.dtype
        assert mine.stride() == other.stride()
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("sick", [None, 0, slice(None)], ids=["healthy", "one channel sick", "all sick"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_ways_agree_to_the_last_bit(
    dtype: torch.dtype, sick: Any, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    for shape, activation, added in (
        ((4, 3, 5, 6), "relu", False),
        ((1, 3, 4, 4), None, True),
        ((3, 3, 2, 2), "silu", True),
    ):
        for narrow in (False, True):
            layer: nn.Module = nt.BatchNorm2d(3, activation=activation)
            layer = layer.to(dtype) if narrow or dtype is torch.float64 else layer
            x, residual = (torch.randn(shape) * 3 + 1).to(dtype), torch.randn(shape).to(dtype)
            if sick is not None:
                x[:, sick, 0, 0] = float("inf")
            inputs = (x, residual) if added else (x,)
            short, general = both_ways(monkeypatch, layer, *inputs, training=training)
            assert isinstance(general, list), general
            assert_equal(short, general)


# What a layer may have become, by the attribute and what to make of it.
CHANGES: dict[str, tuple[str, Callable[[], Any]]] = {
    "statistics not tracked": ("track_running_stats", lambda: False),
    "paused": ("_paused", lambda: True),
    "plain average": ("momentum", lambda: None),
    "momentum a whole number": ("momentum", lambda: 0),
    "a policy": ("on_tiny_batch", lambda: "running"),
    "scale in float16": ("weight", lambda: nn.Parameter(torch.ones(8).half())),
    "no shift": ("bias", lambda: None),
    "mean of another size": ("running_mean", lambda: torch.zeros(7)),
    "no mean": ("running_mean", lambda: None),
    "mean that learns": ("running_mean", lambda: torch.zeros(8, requires_grad=True)),
    "nobody counts": ("num_batches_tracked", lambda: None),
    "nobody counts what is left out": ("num_batches_skipped", lambda: None),
    "counted in floats": ("num_batches_tracked", lambda: torch.zeros(())),
    "activation with a setting": ("activation", lambda: "leaky_relu:0.2"),
    "wrong activation": ("activation", lambda: "rellu"),
    "eps 0": ("eps", lambda: 0.0),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_somebody_changed(change: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nt.BatchNorm2d(8, activation="relu")
    name, make = CHANGES[change]
    setattr(layer, name, make())
    assert_equal(*both_ways(monkeypatch, layer, torch.randn(4, 8, 5, 5), training=training))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (0, 8, 4, 4), (4, 7, 3, 3), (4, 8, 3)], ids=str)
def test_a_batch_that_the_operator_refuses(
    shape: tuple[int, ...], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, general = both_ways(monkeypatch, nt.BatchNorm2d(8), torch.randn(shape), training=training)
    assert_equal(short, general)
    assert isinstance(short, str) == (shape[1] != 8 or len(shape) != 4 or (training and shape[0] == 1))


@pytest.mark.parametrize("shape", [(4, 8, 6, 6), (4, 8, 5, 5)], ids=["other shape", "shape"])
def test_a_residual_of_a_wrong_shape_is_refused(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    short, general = both_ways(
        monkeypatch, nt.BatchNorm2d(8), torch.randn(4, 8, 5, 5), torch.randn(shape), training=True
    )
    assert_equal(short, general)
    assert isinstance(short, str) == (shape != (4, 8, 5, 5))


def test_a_parametrized_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    layer = nt.BatchNorm2d(8)
    parametrize.register_parametrization(layer, "weight", Twice())
    assert_equal(*both_ways(monkeypatch, layer, torch.randn(4, 8, 5, 5), training=True))


def test_a_kernel_that_is_asked_for_serves_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "two_pass")
    layer, x = nt.BatchNorm2d(8), torch.randn(4, 8, 5, 5)
    parts = layer._parameters, layer._buffers
    assert normalize_in_graph(x, None, *parts, layer.eps, layer.momentum, True, None) is None
    assert_equal(*both_ways(monkeypatch, layer, x, training=True))


def guards(model: nn.Module, x: Tensor) -> int:
    """The number of comparisons that the compiler makes before each call of what it made of the model."""
    found: list[int] = []

    def count(entries: Any) -> list[bool]:
        found.append(len(entries))
        return [True] * len(entries)

    torch.compiler.reset()
    torch.compile(model, backend="eager", fullgraph=True, options={"guard_filter_fn": count})(x)
    return found[-1]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_few_guards(training: bool) -> None:
    x = torch.randn(4, 8, 5, 5)
    ours = guards(nn.Sequential(nt.BatchNorm2d(8, activation="relu")).train(training), x)
    theirs = guards(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()).train(training), x)
    assert ours <= theirs + MORE_GUARDS[training], (ours, theirs)


def test_one_reduction_is_all_that_the_safeguards_add_to_the_graph() -> None:
    names: list[str] = []

    def look(graph: torch.fx.GraphModule, _: Any) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch.compile(nt.BatchNorm2d(8, activation="relu"), backend=look, fullgraph=True)(torch.randn(4, 8, 5, 5))
    assert [name for name in names if name in ("sum", "any", "all", "amax", "amin")] == ["sum"], names
