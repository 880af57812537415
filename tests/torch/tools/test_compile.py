"""torch.compile in one graph, and torch.export: the same results as without, in few and chosen cases: they are slow."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import normwise.torch as nt
from normwise.estimators.window import Window
from normwise.kernels import reference
from tests.cases import running

# Only the tracing is ours to test; what code the inductor makes of it is torch's affair, but for the tests that say so.
TRACED = "aot_eager"

# the inductor uses a means that torch itself has deprecated
deprecated_inside = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> None:
    torch.compiler.reset()


def results(layer: nn.Module, call: Any, *inputs: Tensor, **extras: Any) -> list[Tensor]:
    """Two training steps and one in inference: outputs, gradients, statistics."""
    found = []
    for training in (True, True, False):
        layer.train(training)
        layer.zero_grad()
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        y = call(*leaves, **extras)
        y.pow(2).sum().backward()
        gradients = [tensor.grad for tensor in (*leaves, *layer.parameters())]
        found += [y.detach(), *(gradient for gradient in gradients if gradient is not None)]
        assert len(gradients) == len([gradient for gradient in gradients if gradient is not None])
        found += [buffer.clone() for buffer in layer.buffers()]
    return found


def assert_compiles(layer: nn.Module, *inputs: Tensor, backend: str = TRACED, **extras: Any) -> None:
    """One graph, and results as without it."""
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    found, right = results(layer, compiled, *inputs, **extras), results(twin, twin, *inputs, **extras)
    for mine, other in zip(found, right, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"activation": "silu"},
    {"affine": False},
    {"track_running_stats": False},
    {"momentum": None},
    {"estimator": "pooled", "activation": "relu"},
    {"estimator": "debiased_ema"},
    {"estimator": "ema"},
    {"estimator": "cumulative"},
    {"estimator": Window(start=1, stop=3)},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_setting(settings: dict[str, Any]) -> None:
    assert_compiles(nt.BatchNorm2d(3, **settings), torch.randn(4, 3, 5, 6))


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"estimator": "pooled"}], ids=str)
def test_a_mask_and_a_residual(settings: dict[str, Any]) -> None:
    layer = nt.BatchNorm1d(3, activation="relu", **settings)
    x, residual = torch.randn(4, 3, 7), torch.randn(4, 3, 7)
    mask = torch.arange(7) < torch.tensor([7, 2, 5, 1])[:, None]
    assert_compiles(layer, x, residual, mask=mask)


@deprecated_inside
def test_the_code_of_the_inductor() -> None:
    layer = nt.BatchNorm2d(3, activation="silu", estimator="pooled")
    x = torch.randn(4, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    assert_compiles(layer, x, torch.randn(4, 3, 20, 20), backend="inductor")


@deprecated_inside
def test_the_statistics_are_right_far_from_zero_with_channels_last() -> None:
    # Where torch's operator, which would do it without a compiler, is wrong.
    layer = nt.BatchNorm2d(3, momentum=1.0)
    x = (torch.randn(8, 3, 32, 32) + 1e3).contiguous(memory_format=torch.channels_last)
    y = torch.compile(layer, fullgraph=True)(x)
    right, batch = reference.forward_batch(x.double().numpy(), None, None, 1e-5)
    np.testing.assert_allclose(y.detach().numpy(), right, rtol=0, atol=1e-3)  # 2e-4 at 300, as the layers promise
    mean, var = running(layer)
    np.testing.assert_allclose(mean.numpy(), batch.mean, rtol=1e-6)
    np.testing.assert_allclose(var.numpy(), batch.unbiased_var(), rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"estimator": "pooled"}, {"momentum": None}], ids=str)
def test_batches_of_any_size_need_few_graphs(settings: dict[str, Any]) -> None:
    layer = nt.BatchNorm1d(3, **settings)
    twin = copy.deepcopy(layer)
    counter = CompileCounterWithBackend(TRACED)
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    for size in (4, 5, 6, 9, 30, 7, 1200, 2000):
        x = torch.randn(size, 3)
        torch.testing.assert_close(compiled(x), twin(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(running(layer), running(twin), rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= 2  # the first size, then any


def test_many_steps_need_one_graph() -> None:
    # The number of batches grows with every step and must not be baked into the graph.
    for settings in SETTINGS[4:7]:
        torch.compiler.reset()
        layer = nt.BatchNorm1d(3, **settings)
        counter = CompileCounterWithBackend(TRACED)
        compiled = torch.compile(layer, fullgraph=True, backend=counter)
        for _ in range(5):
            compiled(torch.randn(4, 3))
        assert counter.frame_count == 1
        assert int(layer.state_dict()["num_batches_tracked"]) == 5


@pytest.mark.parametrize("masked", [False, True])
def test_errors_of_torchs_stay_errors(masked: bool) -> None:
    extras = {"mask": torch.ones(1, dtype=torch.bool)} if masked else {}
    with pytest.raises(Exception, match="Expected more than 1 value per channel when training") as theirs:
        torch.compile(nn.BatchNorm1d(3), backend=TRACED)(torch.randn(1, 3))
    layer = nt.BatchNorm1d(3)
    with pytest.raises(Exception, match="Expected more than 1 value per channel when training") as ours:
        torch.compile(layer, backend=TRACED)(torch.randn(1, 3), **extras)
    assert ours.type is theirs.type
    assert int(layer.state_dict()["num_batches_tracked"]) == 0


@pytest.mark.parametrize("estimator", [None, "pooled"])
def test_the_export_of_a_model_for_inference(estimator: str | None) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nt.BatchNorm2d(4, activation="relu", estimator=estimator), nn.Conv2d(4, 2, 3)
    )
    model(torch.randn(8, 3, 9, 9))
    model.eval()
    x = torch.randn(2, 3, 9, 9)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    exported = program.module()
    for size in (2, 5):
        x = torch.randn(size, 3, 9, 9)
        torch.testing.assert_close(exported(x), model(x))


def test_the_export_of_a_mask() -> None:
    layer = nt.BatchNorm1d(3, activation="relu").eval()
    x, mask = torch.randn(4, 3, 7), torch.rand(4, 7) < 0.5
    exported = torch.export.export(layer, (x, x), {"mask": mask}).module()
    torch.testing.assert_close(exported(x, x, mask=mask), layer(x, x, mask=mask))
