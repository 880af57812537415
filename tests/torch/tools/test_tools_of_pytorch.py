"""PyTorch's tools on models that hold batch norm: averaging, converting, parametrizing, tracing; as with its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel, update_bn

import normwise.torch as nt


def pair() -> tuple[nn.Module, nn.Module]:
    """A network with our layer, and with torch's."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    ours = copy.deepcopy(theirs)
    ours[1] = nt.BatchNorm2d(4)
    return ours, theirs


def batches() -> list[Tensor]:
    return [torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step)) for step in range(3)]


def assert_alike(ours: nn.Module, theirs: nn.Module) -> None:
    """State and output in inference."""
    mine, right = ours.state_dict(), theirs.state_dict()
    assert [*mine] == [*right]
    for key, value in right.items():
        torch.testing.assert_close(mine[key], value)
    x = batches()[0]
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def averaged(model: nn.Module) -> nn.Module:
    average = AveragedModel(model)
    for x in batches():
        model(x)
        average.update_parameters(model)
    update_bn(batches(), average)
    return average


def averaged_with_buffers(model: nn.Module) -> nn.Module:
    average = AveragedModel(model, use_buffers=True)
    for x in batches():
        model(x)
        average.update_parameters(model)
    return average


def converted(model: nn.Module) -> nn.Module:
    for x in batches():
        model(x)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(type(module) is nn.SyncBatchNorm for module in model.modules())
    return model


def parametrized(model: nn.Module) -> nn.Module:
    parametrizations.weight_norm(model.get_submodule("1"), "weight", dim=0)
    for x in batches():
        model(x).sum().backward()
    return model


def fused(model: nn.Module) -> nn.Module:
    for x in batches():
        model(x)
    model.eval()
    convolution, norm = model.get_submodule("0"), model.get_submodule("1")
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return nn.Sequential(torch.nn.utils.fuse_conv_bn_eval(convolution, norm), model.get_submodule("2"))


def traced_by_fx(model: nn.Module) -> nn.Module:
    for x in batches():
        model(x)
    return torch.fx.symbolic_trace(model)


def emptied_and_loaded(model: nn.Module) -> nn.Module:
    for x in batches():
        model(x)
    empty = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    return empty


def doubled(model: nn.Module) -> nn.Module:
    for x in batches():
        model(x)
    return model.double().float()


def without_gradients(model: nn.Module) -> nn.Module:
    model.requires_grad_(False)
    for x in batches():
        model(x)
    return model


TOOLS = [averaged, averaged_with_buffers, converted, parametrized, fused, traced_by_fx, emptied_and_loaded, doubled]


@pytest.mark.parametrize("tool", [*TOOLS, without_gradients])
def test_a_tool_does_to_ours_what_it_does_to_torchs(tool: Callable[[nn.Module], nn.Module]) -> None:
    ours, theirs = pair()
    assert_alike(tool(ours), tool(theirs))


def test_a_parametrized_layer_is_still_one_of_ours() -> None:
    layer = nt.BatchNorm1d(3, activation="relu")
    parametrizations.weight_norm(layer, "weight", dim=0)
    assert isinstance(layer, nt.BatchNorm1d)
    assert parametrize.is_parametrized(layer)
    assert float(layer(torch.randn(8, 3)).detach().min()) == 0.0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_hooks_see_the_input_and_the_output(memory_format: torch.memory_format) -> None:
    layer = nt.BatchNorm2d(3, activation="relu")
    seen: list[tuple[Tensor, Tensor]] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))  # noqa: ARG005  # torch's form
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=memory_format)
    y = layer(x)
    assert len(seen) == 1
    assert seen[0][0] is x
    assert seen[0][1] is y
