"""Every layer on a device: outputs, gradients, statistics, checkpoints and copies are those of the CPU."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.torch.functional import batch_norm, group_norm, instance_norm, layer_norm
from tests.cases import LAYOUTS
from tests.kernels.test_agreement import dtype_name
from tests.on_a_device.device import DEVICE, assert_alike, assert_there, moved
from tests.torch.every_layer import AXES, CASES, C, exported

LOW = [torch.float32, torch.bfloat16, torch.float16]


def ready(make: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    """A layer on the CPU, lazy or not, with parameters and statistics of its own."""
    layer = make()
    layer(x)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draw) + 0.5)
    return layer


def trained(layer: nn.Module, *inputs: Tensor, **named: Any) -> list[Tensor]:
    """Outputs and gradients of two steps in training and one in inference; then all that is saved."""
    found = []
    for training in (True, True, False):
        layer.train(training)
        leaves = [each.detach().requires_grad_() for each in inputs]
        y = layer(*leaves, **named)
        dy = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.device, y.dtype)
        found += [y, *torch.autograd.grad(y, [*leaves, *layer.parameters()], dy)]
        inputs = tuple(each * 1.5 + 0.5 for each in inputs)
    return [*found, *layer.state_dict().values(), *layer.buffers()]


def assert_the_same(layer: nn.Module, *inputs: Tensor, **named: Any) -> None:
    """A layer on the device, and its copy on the CPU."""
    there = {key: value.to(DEVICE) for key, value in named.items()}
    found = trained(moved(layer), *(each.to(DEVICE) for each in inputs), **there)
    assert_alike(found, trained(layer, *inputs, **named))


@pytest.mark.parametrize("dtype", LOW, ids=dtype_name)
@pytest.mark.parametrize("name", CASES)
def test_every_layer(name: str, dtype: torch.dtype) -> None:
    """The parameters stay in float32, as under autocast; whitening needs x in theirs."""
    x = CASES[name].input().to(dtype)
    assert_the_same(ready(CASES[name].make, CASES[name].input(1)), x)


@pytest.mark.parametrize("layout", ["channels last", "strided", "reversed"])
@pytest.mark.parametrize("name", CASES)
def test_every_layout(name: str, layout: str) -> None:
    layer, x = ready(CASES[name].make, CASES[name].input(1)), CASES[name].input()
    inside = LAYOUTS[layout]
    found = trained(moved(layer), inside(x.to(DEVICE)))
    assert_alike(found, trained(layer, inside(x)))


WITH_ACTIVATION = [
    name
    for name, kind in exported().items()
    if "activation" in inspect.signature(kind).parameters and not name.startswith("Lazy")
]


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("adds", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("name", WITH_ACTIVATION)
def test_activation_residual_and_mask(name: str, activation: str, adds: bool, masked: bool) -> None:
    shape = AXES.get(name[-2:], AXES["2d"])
    first: tuple[Any, ...] = {"GroupNorm": (2, C), "LayerNorm": (shape[1:],)}.get(name, (C,))
    kind: Any = getattr(nt, name)
    more = {"num_splits": 2} if name.startswith("Ghost") else {}
    layer = ready(lambda: kind(*first, activation=activation, **more), torch.randn(shape))
    if masked and "mask" not in inspect.signature(layer.forward).parameters:
        pytest.skip("this layer takes no mask")
    inputs = [torch.randn(shape) + 1 for _ in range(1 + adds)]
    mask = torch.rand(shape[:-1] if name == "LayerNorm" else (shape[0], *shape[2:])) < 0.7
    mask[:, :2] = True
    assert_the_same(layer, *inputs, **({"mask": mask} if masked else {}))


def test_there_are_layers_with_an_activation() -> None:
    assert {"BatchNorm2d", "SyncBatchNorm", "InstanceNorm3d", "GroupNorm"} <= {*WITH_ACTIVATION}


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_from_the_device_and_one_from_the_cpu(name: str) -> None:
    layer, x = ready(CASES[name].make, CASES[name].input(1)), CASES[name].input()
    there = moved(layer)
    there(x.to(DEVICE))
    layer(x)
    file = io.BytesIO()
    torch.save(there.state_dict(), file)
    file.seek(0)
    home = ready(CASES[name].make, CASES[name].input(2))
    home.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    back = moved(ready(CASES[name].make, CASES[name].input(2)))
    back.load_state_dict(layer.state_dict())
    for either in (home, back, layer):
        either.eval()
    assert_alike([back(x.to(DEVICE))], [layer(x)])
    torch.testing.assert_close(home(x), layer(x), rtol=1e-4, atol=1e-4)
    assert_there(back.state_dict().values())


@pytest.mark.parametrize("name", CASES)
def test_a_copy_is_on_the_device_and_apart(name: str) -> None:
    layer = moved(ready(CASES[name].make, CASES[name].input(1)))
    twin = copy.deepcopy(layer)
    x = CASES[name].input().to(DEVICE)
    before = copy.deepcopy(layer.state_dict())
    y = twin(x)
    assert_there([*twin.parameters(), *twin.buffers(), y])
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert_alike([y], [layer(x).cpu()])


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("Lazy")])
def test_made_on_the_device(name: str) -> None:
    with torch.device(DEVICE):
        layer = CASES[name].make()
    assert_there([*layer.parameters(), *layer.buffers(), layer(CASES[name].input().to(DEVICE))])


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_made_on_the_cpu(name: str, training: bool) -> None:
    """On the meta device, which mixes with no other, a tensor that a layer makes elsewhere is an error."""
    layer = ready(CASES[name].make, CASES[name].input(1)).to("meta").train(training)
    x = CASES[name].input().to("meta").requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], torch.empty_like(y))
    assert {tensor.device.type for tensor in (y, *gradients, *layer.buffers())} == {"meta"}


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "batch_norm": lambda x, **how: batch_norm(x, None, None, training=True, **how),
    "group_norm": lambda x, **how: group_norm(x, 2, **how),
    "layer_norm": lambda x, **how: layer_norm(x, x.shape[1:], **how),
    "instance_norm": instance_norm,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    x, residual = (torch.randn(AXES["2d"]) for _ in range(2))
    y = FUNCTIONS[name](x.to(DEVICE), activation="silu", residual=residual.to(DEVICE))
    assert_alike([y], [FUNCTIONS[name](x, activation="silu", residual=residual)])
    assert_alike([y], [F.silu(FUNCTIONS[name](x) + residual)])


def test_a_half_precision_layer_keeps_its_statistics_in_float32() -> None:
    layer = nt.BatchNorm2d(C).to(DEVICE).half()
    layer(torch.randn(AXES["2d"]).to(DEVICE).half() + 100)
    assert layer.running_mean is not None
    assert layer.running_mean.dtype is torch.float32
    assert float(layer.running_mean.mean()) == pytest.approx(10, abs=0.5)


def test_a_batch_that_is_not_finite_leaves_the_statistics() -> None:
    layer = nt.BatchNorm2d(C).to(DEVICE)
    layer(torch.full(AXES["2d"], float("nan"), device=DEVICE))
    assert layer.running_mean is not None
    assert layer.running_mean.tolist() == [0.0] * C
    assert layer.num_batches_skipped is not None
    assert int(layer.num_batches_skipped) == 1


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_moves_the_statistics_once(reentrant: bool) -> None:
    layer = nt.BatchNorm2d(C).to(DEVICE)
    x = torch.randn(AXES["2d"]).to(DEVICE).requires_grad_()
    checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
    assert int(layer.num_batches_tracked or 0) == 1


def test_under_autocast() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(C, C, 1), nt.BatchNorm2d(C, activation="relu"))
    x, found = torch.randn(AXES["2d"]), []
    for device in (DEVICE, "cpu"):
        twin = copy.deepcopy(model).to(device)
        with torch.autocast(device, torch.bfloat16):
            y = twin(x.to(device))
        y.float().square().sum().backward()
        found.append([y.detach(), *(parameter.grad for parameter in twin.parameters() if parameter.grad is not None)])
    assert len(found[0]) == 5
    for one, other in zip(*found, strict=True):
        assert float((one.cpu() - other).norm()) <= 0.05 * float(other.norm()) + 0.5
