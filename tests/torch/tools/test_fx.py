"""``torch.fx``: every layer is one ``call_module`` node, to every tracer, as PyTorch's own are."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

import normwise
import normwise.torch as nt
from tests.torch.networks_to_fuse import BasicBlock, Bottleneck, ResNet
from tests.torch.recorded_layers import NAMES, batch, made


def nodes(graph: fx.GraphModule) -> list[tuple[str, Any]]:
    return [(node.op, node.target) for node in graph.graph.nodes]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_one_node(name: str, training: bool) -> None:
    model = nn.Sequential(made(name).train(training))
    graph = fx.symbolic_trace(copy.deepcopy(model))
    assert nodes(graph) == [("placeholder", "input"), ("call_module", "0"), ("output", "output")]
    x = batch(name)
    torch.manual_seed(1)
    y = graph(x)
    torch.manual_seed(1)
    torch.testing.assert_close(y, model(x))
    for key, value in model.named_buffers():
        torch.testing.assert_close(dict(graph.named_buffers())[key], value)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("Lazy")])
def test_lazy_layers_before_their_first_input(name: str) -> None:
    graph = fx.symbolic_trace(nn.Sequential(getattr(nt, name)()))
    x = batch(name)
    assert graph(x).shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_can_be_copied_pickled_and_traced_again(name: str) -> None:
    graph = fx.symbolic_trace(nn.Sequential(made(name)).eval())
    x = batch(name)
    right = graph(x)
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph)), fx.symbolic_trace(graph)):
        assert nodes(other) == nodes(graph)
        torch.testing.assert_close(other(x), right)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", NAMES)
def test_classes_are_found_where_they_are(name: str, protocol: int) -> None:
    kind = getattr(nt, name)
    assert kind.__module__.startswith("normwise.torch.")
    assert pickle.loads(pickle.dumps(kind, protocol)) is kind
    assert type(pickle.loads(pickle.dumps(made(name), protocol))).__name__ == type(made(name)).__name__
    assert made(name).__module__ == type(made(name)).__module__


def test_hooks_stay_with_the_layer_and_run_once() -> None:
    layer = nt.BatchNorm2d(6)
    seen: list[str] = []
    layer.register_forward_pre_hook(lambda *_: seen.append("before"))

    def after(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        _ = module, inputs
        seen.append("after")
        return 2 * output

    layer.register_forward_hook(after)
    graph = fx.symbolic_trace(nn.Sequential(layer).eval())
    assert (seen, nodes(graph)[1]) == ([], ("call_module", "0"))
    x = batch("BatchNorm2d")
    torch.testing.assert_close(graph(x), layer(x))
    assert seen == ["before", "after"] * 2


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_network_after_fuse(block: type[BasicBlock | Bottleneck], training: bool) -> None:
    model = ResNet(block, (2, 2))
    assert "add, relu" in normwise.fuse(model).fused.values()
    model.train(training)
    graph = fx.symbolic_trace(copy.deepcopy(model))
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    calls = [node for node in calls if isinstance(graph.get_submodule(node.target), nt.BatchNorm2d)]
    assert {len(node.args) for node in calls} == {1, 2}
    again = fx.symbolic_trace(copy.deepcopy(graph))
    x = torch.randn(4, 3, 32, 32)
    right = model(x)
    torch.testing.assert_close(again(x), right)


def test_arguments_that_are_known_while_tracing() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nt.BatchNorm2d(6, activation="relu")

        def forward(self, x: Tensor, residual: Tensor, add: bool) -> Any:
            return self.norm(x, residual) if add else self.norm(x)

    model, x = Model().eval(), batch("BatchNorm2d")
    for add in (False, True):
        graph = fx.symbolic_trace(model, concrete_args={"add": add})
        torch.testing.assert_close(graph(x, x, add), model(x, x, add))


def test_keywords_are_in_the_node() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nt.PerDomain(nt.BatchNorm2d(6), ["day", "night"])

        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return self.norm(x, mask=mask, domain="night")

    graph = fx.symbolic_trace(Model())
    (call,) = (node for node in graph.graph.nodes if node.op == "call_module")
    assert call.kwargs["domain"] == "night"
    graph(batch("BatchNorm2d"), torch.ones(12, 5, 5, dtype=torch.bool))
    norm: Any = graph.norm
    assert (norm.of("day").num_batches_tracked, norm.of("night").num_batches_tracked) == (0, 1)


class FeatureTracer(fx.Tracer):
    """A tracer like torchvision's of features: leaves of the user's, functions wrapped, and names of nodes."""

    def __init__(self, leaves: tuple[type[nn.Module], ...], functions: tuple[Callable[..., Any], ...]) -> None:
        super().__init__(autowrap_modules=(operator,), autowrap_functions=functions)
        self.leaves, self.names, self.now = leaves, dict[fx.Node, str](), ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before, self.now = self.now, self.path_of_module(m)
        try:
            if not self.is_leaf_module(m, self.now):
                return forward(*args, **kwargs)
            return self.create_proxy("call_module", self.now, args, kwargs)
        finally:
            self.now = before

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
        self.names[proxy.node] = self.now
        return proxy


def test_features_of_a_network_with_fused_layers() -> None:
    model = ResNet(BasicBlock, (2, 2)).eval()
    x = torch.randn(2, 3, 32, 32)
    right: list[Tensor] = []
    model.layer1.register_forward_hook(lambda _module, _inputs, output: right.append(output))
    model(x)
    normwise.fuse(model)
    tracer = FeatureTracer((nn.MaxPool2d,), (len,))
    graph = tracer.trace(model)
    last = [node for node, name in tracer.names.items() if name.startswith("layer1")][-1]
    for node in graph.nodes:
        if node.op == "output":
            node.args = (last,)
    features = fx.GraphModule(model, graph)
    features.graph.eliminate_dead_code()
    features.recompile()
    assert any(isinstance(part, nt.BatchNorm2d) for part in features.modules())
    torch.testing.assert_close(features(x), right[0], rtol=1e-4, atol=1e-4)


def test_a_users_subclass_is_followed_as_one_of_torchs_is() -> None:
    class Ours(nt.BatchNorm2d):
        pass

    class Theirs(nn.BatchNorm2d):
        pass

    for layer in (Ours(3), Theirs(3)):
        with pytest.raises(TraceError, match="cannot be used as inputs to control flow"):
            fx.symbolic_trace(nn.Sequential(layer))
