"""What PyTorch's recorders make of the layers: traces that run anywhere, leaves of ``torch.fx``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import NormwiseError

# PyTorch 2.13 calls all of torch.jit deprecated; it is still the way to mobile and to older servers.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nt.BatchNorm2d(16),
    "relu": lambda: nt.BatchNorm2d(16, activation="relu"),
    "renorm": lambda: nt.BatchRenorm2d(16),
    "instance": lambda: nt.InstanceNorm2d(16, track_running_stats=True),
    "group": lambda: nt.GroupNorm(4, 16),
}
SMALL, LARGE = (4, 16, 5, 5), (32, 16, 56, 56)


def batch(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 5


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_trace_holds_operators_of_pytorch_alone(name: str, shape: tuple[int, ...]) -> None:
    layer, x = LAYERS[name]().eval(), batch(*shape)
    traced = torch.jit.trace(layer, x)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert all(kind.startswith(("aten::", "prim::")) for kind in kinds), kinds
    torch.testing.assert_close(traced(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", ["plain", "relu", "instance"])
def test_a_trace_of_training_updates_the_statistics(name: str, shape: tuple[int, ...]) -> None:
    layer, x = LAYERS[name]().train(), batch(*shape)
    traced = torch.jit.trace(layer, x, check_trace=False)
    traced.running_mean.zero_()
    traced(x)
    torch.testing.assert_close(traced.running_mean, 0.1 * x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_a_saved_trace_runs_where_normwise_cannot_be_imported(tmp_path: Path) -> None:
    model, x = nn.Sequential(nt.BatchNorm2d(16, activation="relu"), nt.GroupNorm(4, 16)).eval(), batch(*LARGE)
    with torch.no_grad():
        torch.jit.trace(model, x).save(str(tmp_path / "net.pt"))
    torch.save({"x": x, "y": model(x).detach()}, tmp_path / "data.pt")
    code = (
        "import sys; sys.modules['normwise'] = None; import torch; net = torch.jit.load('net.pt'); "
        "data = torch.load('data.pt'); print(bool((net(data['x']) - data['y']).abs().max() < 1e-4))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_leaf_of_torch_fx(name: str) -> None:
    graph = torch.fx.symbolic_trace(nn.Sequential(LAYERS[name]())).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.parametrize("name", LAYERS)
def test_scripting_is_refused_in_a_sentence_that_names_the_way_out(name: str) -> None:
    layer = LAYERS[name]()
    with pytest.raises(NormwiseError) as refused:
        torch.jit.script(nn.Sequential(layer))
    assert str(refused.value) == (
        f"torch.jit.script cannot compile {type(layer).__name__}({layer.extra_repr()}), whose Python chooses among "
        "kernels and keeps statistics finite: record the model by torch.jit.trace or torch.export.export instead."
    )


@pytest.mark.parametrize("name", ["relu", "renorm"])
def test_to_mkldnn_does_not_lose_an_activation(name: str) -> None:
    to_mkldnn = import_module("torch.utils.mkldnn").to_mkldnn  # whose import warns as well
    layer = nt.BatchRenorm2d(16, activation="relu") if name == "renorm" else LAYERS[name]()
    with pytest.raises(NormwiseError, match=r"^torch\.utils\.mkldnn\.to_mkldnn would lose the activation of Batch"):
        to_mkldnn(nn.Sequential(layer).eval())
