"""``fuse``: what it reaches in networks as people write them, and that they compute what they did before."""

from __future__ import annotations

import copy
import operator
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise
import normwise.torch as nt
from normwise.torch.models.fusion.fuse import FuseReport, fuse
from tests.torch import networks_to_fuse as networks

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int, int, int]] = {
    # name: the network, and how many batch norms are fused, of these with an addition, swapped, left
    "resnet18": (networks.resnet18, 9, 4, 1, 0),
    "resnet50": (networks.resnet50, 13, 4, 2, 0),
    "vgg": (networks.vgg, 3, 0, 0, 0),
    "mobilenet": (networks.mobilenet, 4, 0, 2, 0),
    "densenet": (networks.densenet, 2, 0, 1, 0),
    "branching": (networks.Branching, 5, 2, 0, 2),
}


def prepared(make: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """The network with scales and shifts that are not those at the start."""
    torch.manual_seed(0)
    model = make().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return model


def images(step: int, dtype: torch.dtype) -> Tensor:
    return torch.randn((6, 3, 8, 8), generator=torch.Generator().manual_seed(step), dtype=dtype)


def assert_same(ours: nn.Module, theirs: nn.Module, dtype: torch.dtype, steps: int = 3) -> None:
    """Outputs, gradients and running statistics over some steps of training, then inference."""
    rtol, atol = (1e-10, 1e-10) if dtype == torch.float64 else (2e-4, 2e-5)
    models = (ours.train(), theirs.train())
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
    for step in range(steps):
        found = []
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(step)  # for dropout
            optimizer.zero_grad()
            found.append(model(images(step, dtype)))
            found[-1].square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(*found, rtol=rtol, atol=atol)
        for (name, ours_), theirs_ in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (ours_.grad is None) == (theirs_.grad is None), name
            torch.testing.assert_close(ours_.grad, theirs_.grad, rtol=rtol, atol=atol)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=rtol, atol=atol)
    x = images(99, dtype)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_computes_what_it_did(name: str, dtype: torch.dtype) -> None:
    make, fused, added, swapped, left = NETWORKS[name]
    theirs = prepared(make, dtype)
    ours = copy.deepcopy(theirs)
    report = fuse(ours)
    there = [what for what in report.fused.values() if what.startswith("add, ")]
    assert (len(report.fused), len(there), len(report.swapped), len(report.left)) == (fused, added, swapped, left)
    assert_same(ours, theirs, dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_stays_what_it_is(name: str) -> None:
    model = prepared(NETWORKS[name][0], torch.float32)
    before = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    keys, text, kind = [*model.state_dict()], copy.deepcopy(model.state_dict()), type(model)
    fuse(model)
    assert isinstance(model, kind)
    assert [*model.state_dict()] == keys
    after = dict(model.named_modules())
    assert [*after] == [*before]
    for path, module in after.items():
        assert type(module) is nn.Identity or module is before[path]
        assert isinstance(module, type(before[path]) if module is before[path] else nn.Identity)
    for path, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        assert tensor is tensors[path] if path in tensors else path.endswith("num_batches_skipped")
    for path, value in model.state_dict().items():
        assert torch.equal(value, text[path])
    plain = prepared(NETWORKS[name][0], torch.float32)
    assert not plain.load_state_dict(model.state_dict()).missing_keys
    assert not model.load_state_dict(plain.state_dict()).unexpected_keys


@pytest.mark.parametrize("name", NETWORKS)
def test_every_batch_norm_is_reported_once_and_a_second_call_finds_nothing(name: str) -> None:
    model = prepared(NETWORKS[name][0], torch.float32)
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)}
    report = fuse(model)
    reported = [*report.fused, *report.swapped, *report.left]
    assert sorted(reported) == sorted(norms)
    classes = [type(module) for module in model.modules()]
    again = fuse(model)
    assert (dict(again.fused), again.swapped, {*again.left}) == ({}, {}, norms)
    assert str(again).startswith(f"0 of {len(norms)} batch norms fused, 0 swapped, {len(norms)} left\n")
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "deepcopy of pickle"])
def test_copies_are_the_same_and_their_own(name: str, way: str) -> None:
    model = prepared(NETWORKS[name][0], torch.float64)
    fuse(model)
    again = pickle.loads(pickle.dumps(model)) if "pickle" in way else copy.deepcopy(model)
    again = copy.deepcopy(again) if way.startswith("deepcopy of") else again
    assert [type(module) for module in again.modules()] == [type(module) for module in model.modules()]
    theirs = {id(module) for module in model.modules()}
    assert not theirs & {id(module) for module in again.modules()}
    assert_same(again, model, torch.float64, steps=1)


@pytest.mark.parametrize("name", ["resnet18", "densenet"])
def test_a_fused_model_compiles_in_one_graph(name: str) -> None:
    model = prepared(NETWORKS[name][0], torch.float32)
    fuse(model)
    eager = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's compiler says about its own insides
        model.compile(fullgraph=True, backend="aot_eager")
        assert_same(model, eager, torch.float32, steps=2)


def test_hooks_listen_on() -> None:
    model = prepared(networks.resnet18, torch.float32)
    heard: list[str] = []
    for name in ("layer1.0", "layer1.0.conv1", "layer2.0.downsample", "fc"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: heard.append(name))
    fuse(model)
    model(images(0, torch.float32))
    assert heard == ["layer1.0.conv1", "layer1.0", "layer2.0.downsample", "fc"]


ACTIVATIONS: list[tuple[str, Any]] = [
    ("relu", F.relu),
    ("relu", lambda y: F.relu(y, inplace=True)),
    ("relu", torch.relu),
    ("relu", torch.relu_),
    ("relu", lambda y: y.relu()),
    ("relu", lambda y: y.relu_()),
    ("relu", nn.ReLU()),
    ("relu6", F.relu6),
    ("relu6", nn.ReLU6(inplace=True)),
    ("leaky_relu", F.leaky_relu),
    ("leaky_relu", lambda y: F.leaky_relu(y, 0.01, True)),
    ("leaky_relu", nn.LeakyReLU()),
    ("silu", F.silu),
    ("silu", nn.SiLU()),
    ("gelu", F.gelu),
    ("gelu", nn.GELU()),
    ("sigmoid", torch.sigmoid),
    ("sigmoid", F.sigmoid),
    ("sigmoid", nn.Sigmoid()),
    ("tanh", torch.tanh),
    ("tanh", lambda y: y.tanh_()),
    ("tanh", nn.Tanh()),
    ("hardswish", F.hardswish),
    ("hardswish", nn.Hardswish()),
    ("mish", F.mish),
    ("mish", nn.Mish()),
    ("elu", F.elu),
    ("elu", lambda y: F.elu(y, alpha=1.0)),
    ("elu", nn.ELU()),
    ("elu:0.5", nn.ELU(0.5)),
    ("elu:2.0", lambda y: F.elu(y, 2.0)),
    ("leaky_relu:0.2", nn.LeakyReLU(0.2)),
    ("leaky_relu:-1.5", nn.LeakyReLU(-1.5)),
    ("relu", nn.LeakyReLU(0.0)),
    ("relu", lambda y: F.elu(y, 0.0)),
    ("elu", nn.CELU()),
    ("elu", torch.celu),
    ("leaky_relu:0.2", lambda y: F.leaky_relu(y, 0.2)),
    ("leaky_relu:-0.1", lambda y: F.leaky_relu(y, -0.1)),
    ("gelu_tanh", nn.GELU(approximate="tanh")),
    ("gelu_tanh", lambda y: F.gelu(y, approximate="tanh")),
    ("hardsigmoid", nn.Hardsigmoid()),
    ("hardsigmoid", F.hardsigmoid),
    ("relu6", nn.Hardtanh(0.0, 6.0)),
    ("relu6", lambda y: F.hardtanh(y, 0.0, 6.0)),
    ("gelu", networks.GELU()),
    ("sigmoid", networks.Sigmoid(inplace=True)),
]
ADDITIONS: list[Any] = [
    None,
    operator.add,
    lambda y, x: x + y,
    operator.iadd,
    torch.add,
    lambda y, x: torch.add(x, y, alpha=1),
    lambda y, x: y.add_(x),
    lambda y, x: y.add(x),
]


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
@pytest.mark.parametrize("addition", range(len(ADDITIONS)))
def test_every_spelling_is_found(activation: int, addition: int) -> None:
    (name, activate), add = ACTIVATIONS[activation], ADDITIONS[addition]
    dtype = torch.float32 if name == "hardsigmoid" else torch.float64  # the slope of PyTorch's is 1/6 in float32
    theirs = prepared(lambda: networks.Functional(activate, add), dtype)
    ours = copy.deepcopy(theirs)
    assert fuse(ours).fused == {"norm": name if add is None else f"add, {name}"}
    assert_same(ours, theirs, dtype, steps=1)


NOT_OURS: list[Any] = [
    nn.CELU(2.0),
    nn.SELU(),
    nn.Hardtanh(),
    nn.PReLU(dtype=torch.float64),
    networks.Swish(),
    lambda y: F.celu(y, 0.5),
    lambda y: F.hardtanh(y, 0.0, 5.0),
    lambda y: F.relu(y + 1.0),
    lambda y: F.relu(y + y),
    lambda y: F.relu(torch.add(y, y.mean(), alpha=2)),
    torch.sin,
]


@pytest.mark.parametrize("case", range(len(NOT_OURS)))
def test_what_the_layers_do_not_compute_is_not_fused(case: int) -> None:
    theirs = prepared(lambda: networks.Functional(NOT_OURS[case]), torch.float64)
    ours = copy.deepcopy(theirs)
    report = fuse(ours)
    assert report.fused == {}
    assert type(ours.norm) is (nt.BatchNorm2d if report.swapped else nn.BatchNorm2d)
    assert_same(ours, theirs, torch.float64, steps=1)


def test_the_front_door_is_the_same() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    assert normwise.fuse(model) == FuseReport({"1": "relu"}, {}, {})
