"""torch.compile on large CPU tensors: the graph calls the compiled kernels and gives what the layers give without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import normwise.torch as nt
from normwise.kernels.choose import SMALL_IN_GRAPH, built
from tests.cases import running

pytestmark = pytest.mark.skipif(not built(), reason="the compiled kernels are not built")

TRACED = "aot_eager"
SHAPE = (8, 16, 32, 32)
OPERATOR = "normwise.forward_in_graph"

# the inductor uses a means that torch itself has deprecated
deprecated_inside = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> None:
    torch.compiler.reset()


def nodes(call: Callable[..., Any], *inputs: Any, **options: Any) -> list[str]:
    """The functions that the graph of a call consists of."""
    found: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        found.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compile(call, fullgraph=True, backend=keep, **options)(*inputs)
    return found


def calls_the_kernels(found: list[str]) -> bool:
    return any(OPERATOR in name for name in found)


def step(layer: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Output and gradients of one training step."""
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    y = layer(*leaves)
    y.backward(torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(y.dtype))
    return [y.detach(), *(x.grad for x in leaves if x.grad is not None)]


@deprecated_inside
@pytest.mark.parametrize("backend", [TRACED, "inductor"])
@pytest.mark.parametrize(
    ("activation", "added", "dtype", "layout"),
    [
        ("relu", False, torch.float32, torch.contiguous_format),
        ("relu", True, torch.float32, torch.contiguous_format),
        ("relu", True, torch.bfloat16, torch.channels_last),
        ("leaky_relu:0.2", False, torch.float32, torch.channels_last),
        ("silu", True, torch.float64, torch.contiguous_format),
        (None, False, torch.float16, torch.contiguous_format),
    ],
)
def test_a_training_step_is_that_without_the_compiler(
    activation: str | None, added: bool, dtype: torch.dtype, layout: torch.memory_format, backend: str
) -> None:
    if backend == "inductor" and (dtype is torch.float64 or activation is None):
        pytest.skip("two of the six would tell no more, at five seconds each")
    torch.manual_seed(0)
    layer = nt.BatchNorm2d(16, activation=activation).to(dtype)
    inputs = [torch.randn(SHAPE).to(dtype).contiguous(memory_format=layout) for _ in range(1 + added)]
    twin = copy.deepcopy(layer)
    found = step(torch.compile(layer, fullgraph=True, backend=backend), *inputs)
    right = step(twin, *inputs)
    found += [p.grad for p in layer.parameters() if p.grad is not None] + list(layer.buffers())
    right += [p.grad for p in twin.parameters() if p.grad is not None] + list(twin.buffers())
    for mine, other in zip(found, right, strict=True):
        assert mine.stride() == other.stride()
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_what_the_graph_calls() -> None:
    layer, x = nt.BatchNorm2d(16, activation="relu"), torch.randn(SHAPE)
    assert calls_the_kernels(nodes(layer, x))
    assert not calls_the_kernels(nodes(layer, x[:, :, :4, :4].contiguous()))
    assert not calls_the_kernels(nodes(layer.eval(), x))
    assert not calls_the_kernels(nodes(nn.BatchNorm2d(16), x))


def test_sizes_that_are_not_known_yet() -> None:
    layer = nt.BatchNorm2d(16)
    twin = copy.deepcopy(layer)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for size in (8, 12, 9, 30, 2, 3):  # the last two are small
        x = torch.randn(size, 16, 16, 16)
        torch.testing.assert_close(compiled(x), twin(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(running(layer), running(twin), rtol=1e-5, atol=1e-6)
    assert SMALL_IN_GRAPH // (16 * 16 * 16) == 8
    assert counter.frame_count == 2


def test_a_size_that_only_the_data_tell() -> None:
    layer = nt.BatchNorm2d(16)
    twin = copy.deepcopy(layer)

    def some(x: Tensor, wanted: Tensor) -> Tensor:
        rows = x[wanted]
        torch._check(rows.shape[0] > 1)
        return torch.cat([layer(torch.cat([rows, rows])), rows])

    x, wanted = torch.randn(16, 16, 32, 32), torch.arange(16) < 9
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        y = torch.compile(some, fullgraph=True, backend=TRACED)(x, wanted)
    torch.testing.assert_close(y[:18], twin(torch.cat([x[:9], x[:9]])), rtol=1e-5, atol=1e-5)


def test_an_export_has_pytorchs_operators_only() -> None:
    layer = nt.BatchNorm2d(16, activation="relu")
    for strict in (False, True):
        program = torch.export.export(layer, (torch.randn(SHAPE),), strict=strict)
        names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert names
        assert {name for name in names if "normwise" in name} == set()


def test_a_channel_that_is_not_finite_keeps_its_statistics() -> None:
    layer = nt.BatchNorm2d(16)
    x = torch.randn(SHAPE)
    x[0, 3, 0, 0] = float("inf")
    torch.compile(layer, fullgraph=True, backend=TRACED)(x)
    mean, var = running(layer)
    assert (float(mean[3]), float(var[3])) == (0, 1)
    assert bool((mean != 0).sum() == 15)
    assert int(layer.state_dict()["num_batches_tracked"]) == 1
    assert layer.num_batches_skipped is not None
    assert int(layer.num_batches_skipped) == 1


@pytest.mark.parametrize("added", [False, True])
def test_the_backward_keeps_the_input_and_a_bit_per_element_where_something_is_added(added: bool) -> None:
    layer = nt.BatchNorm2d(16, activation="relu")
    leaves = [torch.randn(SHAPE, requires_grad=True) for _ in range(1 + added)]
    kept: list[int] = []
    compiled = torch.compile(layer, fullgraph=True, backend=TRACED)

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.nbytes)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        compiled(*leaves)
    size = leaves[0].nbytes
    assert size <= sum(kept) < size * (1 + added / 16) + 4000


@pytest.mark.parametrize("name", ["GhostBatchNorm2d", "BatchRenorm2d", "InstanceNorm2d", "SyncBatchNorm"])
def test_the_other_layers(name: str) -> None:
    torch.manual_seed(0)
    layer = getattr(nt, name)(16, **({"virtual_batch_size": 4} if "Ghost" in name else {}))
    twin = copy.deepcopy(layer)
    x = torch.randn(SHAPE)
    found, right = step(torch.compile(layer, backend=TRACED), x), step(twin, x)
    for mine, other in zip([*found, *layer.buffers()], [*right, *twin.buffers()], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_transforms_inside_of_the_graph() -> None:
    layer = nt.BatchNorm2d(16, track_running_stats=False)
    x = torch.randn(2, *SHAPE)

    def gradient(batch: Tensor) -> Tensor:
        result: Tensor = torch.func.grad(lambda value: layer(value).pow(3).sum())(batch)
        return result

    def all_of_them(batches: Tensor) -> Tensor:
        result: Tensor = torch.func.vmap(gradient)(batches)
        return result

    found = torch.compile(all_of_them, backend=TRACED)(x)
    torch.testing.assert_close(found, all_of_them(x), rtol=1e-4, atol=1e-4)


def test_autocast() -> None:
    model = nn.Sequential(nn.Conv2d(4, 16, 3), nt.BatchNorm2d(16, activation="relu"), nn.Conv2d(16, 4, 3))
    twin = copy.deepcopy(model)
    x = torch.randn(8, 4, 34, 34)

    def run(network: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = network(x)
        y.float().pow(2).mean().backward()
        return y

    torch.testing.assert_close(run(torch.compile(model, backend=TRACED)), run(twin), rtol=0.02, atol=0.02)
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0.05, atol=1e-3)
