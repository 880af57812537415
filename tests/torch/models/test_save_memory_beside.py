"""``save_memory`` beside what else there is: second derivatives, autocast, checkpoints, hooks of others, compilers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normwise.torch.models.memory import recipes
from normwise.torch.models.memory.save_memory import save_memory
from tests.torch.saved_networks import NETWORKS, assert_same_bits, chain, compared, fused, images, loss_of, trained


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """These networks are tiny, and are to be treated as large ones."""
    monkeypatch.setattr(recipes, "FEWEST_BYTES", 0)


def test_the_graph_is_kept_and_used_again() -> None:
    def twice(model: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = model(x)
        loss_of(y).backward(retain_graph=True)
        return y

    assert len(compared(fused(NETWORKS["bottlenecks"]), images(), twice).saved) > 5


@pytest.mark.parametrize("name", ["a chain", "residual"])
def test_second_derivatives(name: str) -> None:
    def penalized(model: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y + slope.square().sum()

    assert len(compared(fused(NETWORKS[name]), images(8), penalized).saved) > 2


def test_a_part_of_the_gradients_alone() -> None:
    def partly(model: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = model(x)
        torch.autograd.grad(y.sum(), [*model.parameters()][-1], retain_graph=True)
        return y

    assert len(compared(fused(NETWORKS["residual"]), images(), partly).saved) > 5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_autocast(layout: torch.memory_format) -> None:
    def cast(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = model(x)
        return y

    report = compared(fused(NETWORKS["bottlenecks"]), images().to(memory_format=layout), cast)
    assert len(report.saved) > 5


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_activation_checkpointing(reentrant: bool, inside: bool) -> None:
    def checkpoint(function: Any, x: Tensor) -> Any:
        return torch.utils.checkpoint.checkpoint(function, x, use_reentrant=reentrant)

    class Checkpointed(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Any:
            return checkpoint(self.block, x)

    model = fused(chain)
    assert isinstance(model, nn.Sequential)
    if inside:
        layers = [*model]
        compared(nn.Sequential(*layers[:3], Checkpointed(nn.Sequential(*layers[3:6])), *layers[6:]), images())
    else:
        compared(model, images(), checkpoint)


def test_other_hooks_keep_what_is_kept() -> None:
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor.detach().clone())
        return packed[-1]

    def hooked(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y: Tensor = model(x)
        return y

    model, x = fused(NETWORKS["residual"]), images()
    trained(copy.deepcopy(model), x, hooked)
    before = sum(tensor.nbytes for tensor in packed)
    packed.clear()
    twin = copy.deepcopy(model)
    save_memory(twin)
    found = trained(twin, x, hooked)
    assert sum(tensor.nbytes for tensor in packed) < 0.9 * before
    assert_same_bits(found, trained(model, x))


def test_hooks_on_the_layers_and_on_their_outputs() -> None:
    model = fused(chain)
    seen: list[float] = []

    def listen(_: nn.Module, __: object, y: Tensor) -> Tensor:
        y.register_hook(lambda gradient: seen.append(float(gradient.sum())))
        return y + 1

    model[1].register_forward_hook(listen)  # type: ignore[index]  # it is a Sequential
    model[4].register_forward_pre_hook(lambda _, given: (given[0] * 2,))  # type: ignore[index]  # as above
    compared(model, images())
    assert len(seen) == 2 or len({*seen}) == 1


def test_what_torch_func_transforms_is_left_alone() -> None:
    model = fused(chain).eval()
    x = images()
    expected = torch.func.grad(lambda x: model(x).square().sum())(x)
    save_memory(model)
    assert recipes.same_bits(torch.func.grad(lambda x: model(x).square().sum())(x), expected)


def test_torch_compile_has_its_own_way() -> None:
    model = fused(chain)
    x = images()
    expected = trained(copy.deepcopy(model), x)
    save_memory(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = trained(compiled, x)  # type: ignore[arg-type]  # it is a module all the same
    torch.testing.assert_close(found["y"], expected["y"])
    torch.testing.assert_close(found["x"], expected["x"])


def test_on_the_meta_device_the_bytes_are_about_those_of_a_real_one() -> None:
    model, x = fused(NETWORKS["residual"]), images()
    real = save_memory(copy.deepcopy(model), x)
    planned = copy.deepcopy(model).to("meta")
    found = save_memory(planned, x.to("meta"))
    for planned_bytes, real_bytes in ((found.bytes_before, real.bytes_before), (found.bytes_after, real.bytes_after)):
        assert planned_bytes == pytest.approx(
            real_bytes, rel=0.02
        )  # PyTorch's operator keeps other small tensors there
    assert found.saved.keys() == real.saved.keys()
    planned(x.to("meta")).sum().backward()
