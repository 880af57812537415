"""``paused_statistics``: forwards that leave every running statistic as it is, of torch's layers and of ours."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.torch.models.paused import paused_statistics


class Foreign(nn.Module):
    """Writes without asking, as layers of other packages do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.running_mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.running_mean += 1
        if x.shape[0] == 1:
            raise RuntimeError("one sample")
        return x - self.running_mean.view(1, -1, 1, 1)


LAYERS: dict[str, Callable[[], Any]] = {
    "torch": lambda: nn.BatchNorm2d(3),
    "torch, momentum=None": lambda: nn.BatchNorm2d(3, momentum=None),
    "torch, synchronized": lambda: nn.SyncBatchNorm(3),
    "torch, lazy": nn.LazyBatchNorm2d,
    "torch, instance norm": lambda: nn.InstanceNorm2d(3, track_running_stats=True),
    "ours": lambda: nt.BatchNorm2d(3, activation="relu"),
    "ours, running": lambda: nt.BatchNorm2d(3, on_tiny_batch="running"),
    "ours, renorm": lambda: nt.BatchNorm2d(3, on_tiny_batch="renorm"),
    "ours, pooled": lambda: nt.BatchNorm2d(3, estimator="pooled"),
    "ours, lazy": nt.LazyBatchNorm2d,
    "ours, ghost": lambda: nt.GhostBatchNorm2d(3, virtual_batch_size=4),
    "ours, renormalized": lambda: nt.BatchRenorm2d(3),
    "ours, by domain": lambda: nt.PerDomain(nt.BatchNorm2d(3), ["day", "night"], default="day"),
    "foreign": Foreign,
}
LAZY = ("torch, lazy", "ours, lazy")
SHAPES = {"small": (8, 3, 5, 5), "large": (16, 3, 32, 32)}


def batch(kind: str = "small", seed: int = 0) -> Tensor:
    return torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(seed)) * 2 + 1


def everything(model: nn.Module) -> dict[str, Any]:
    hooks = {name: [*module._forward_pre_hooks, *module._forward_hooks] for name, module in model.named_modules()}
    attributes = {
        name: {key: value for key, value in vars(module).items() if not key.startswith("_")}
        for name, module in model.named_modules()
    }
    return {
        "bytes": {name: tensor.detach().clone().tolist() for name, tensor in model.named_buffers()},
        "places": {name: (id(tensor), tensor.data_ptr()) for name, tensor in model.named_buffers()},
        "hooks": hooks,
        "attributes": attributes,
        "names": {name: {*vars(module)} for name, module in model.named_modules()},
        "modes": {name: module.training for name, module in model.named_modules()},
    }


def seen(layer: Any) -> Any:
    """One that has statistics of its own, other than those at the beginning."""
    layer(batch(seed=7))
    return layer


@pytest.mark.parametrize("forward", ["dummy input", "no_grad", "inference_mode"])
def test_torchs_statistics_take_in_every_forward_in_training_mode(forward: str) -> None:
    layer = nn.BatchNorm2d(3)
    if forward == "dummy input":
        layer(torch.zeros(8, 3, 5, 5))
    else:
        with torch.no_grad() if forward == "no_grad" else torch.inference_mode():
            layer(batch())
    assert int(layer.num_batches_tracked or 0) == 1
    assert not torch.equal(layer.state_dict()["running_var"], torch.ones(3))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", LAYERS)
def test_inside_every_output_is_the_same_and_every_statistic_stays(name: str, kind: str) -> None:
    layer = seen(LAYERS[name]())
    plain = copy.deepcopy(layer)
    before = everything(layer)
    with paused_statistics(layer):
        x = batch(kind).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        for again in (torch.no_grad, torch.inference_mode):
            with again():
                layer(batch(kind, seed=1))
        assert everything(layer)["bytes"] == before["bytes"]
    assert everything(layer) == before
    z = batch(kind).requires_grad_()
    expected = plain(z)
    expected.square().sum().backward()
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    torch.testing.assert_close(x.grad, z.grad, rtol=0, atol=0)
    layer(batch(kind))
    assert everything(layer)["bytes"] == everything(plain)["bytes"]  # it goes on afterwards


@pytest.mark.parametrize("name", LAZY)
def test_a_dummy_input_gives_a_lazy_layer_its_shape_and_nothing_else(name: str) -> None:
    layer = LAYERS[name]()
    with paused_statistics(layer):
        layer(batch())
    assert layer.running_mean.tolist() == [0, 0, 0]
    assert layer.running_var.tolist() == [1, 1, 1]
    assert int(layer.num_batches_tracked) == 0
    layer(batch())
    assert int(layer.num_batches_tracked) == 1
    assert layer.running_mean.abs().min() > 0


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - {*LAZY}))
def test_a_mode_that_is_changed_inside_holds(name: str) -> None:
    layer = seen(LAYERS[name]())
    expected = copy.deepcopy(layer).eval()(batch())
    with paused_statistics(layer):
        layer(batch(seed=2))
        layer.eval()
        torch.testing.assert_close(layer(batch()), expected, rtol=0, atol=0)
    assert not layer.training


def test_small_batches_are_treated_as_outside() -> None:
    x = torch.randn(1, 3, 1, 1)
    layer = seen(nt.BatchNorm2d(3, on_tiny_batch="running"))
    expected = copy.deepcopy(layer)(x)
    with paused_statistics(layer):
        assert torch.equal(layer(x), expected)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            nt.BatchNorm2d(3)(x)


@pytest.mark.filterwarnings("ignore:input's size at dim=1:UserWarning")  # instance norm's, before its error
@pytest.mark.parametrize("name", sorted(LAYERS.keys() - {*LAZY}))
def test_after_an_error_inside_all_is_as_before(name: str) -> None:
    model = nn.Sequential(seen(LAYERS[name]()))
    before = everything(model)

    def work() -> None:
        with paused_statistics(model):
            model(batch())
            model(batch()[:1, :2, :1, :1])

    with pytest.raises((RuntimeError, ValueError)):
        work()
    assert everything(model) == before


@pytest.mark.parametrize("name", ["torch", "ours", "torch, instance norm", "foreign"])
def test_blocks_in_blocks(name: str) -> None:
    model = nn.Sequential(seen(LAYERS[name]()), seen(LAYERS[name]()))
    before = everything(model)
    with paused_statistics(model):
        with paused_statistics(model[0]):
            model(batch())
        model(batch())
        assert everything(model)["bytes"] == before["bytes"]
    assert everything(model) == before
    with paused_statistics(model[0]):
        model(batch())
    after = everything(model)["bytes"]
    changed = {key for key, value in before["bytes"].items() if after[key] != value}
    assert {key.split(".")[0] for key in changed} == {"1"}


@pytest.mark.parametrize("name", ["torch", "ours"])
def test_blocks_of_two_threads_that_overlap(name: str) -> None:
    layer = seen(LAYERS[name]())
    before = everything(layer)
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with paused_statistics(layer):
            entered.set()
            left.wait(30)
            layer(batch())

    thread = threading.Thread(target=other)
    with paused_statistics(layer):
        thread.start()
        assert entered.wait(30)
    left.set()  # the block that began first has ended first
    thread.join(30)
    assert everything(layer) == before


@pytest.mark.parametrize("name", ["torch", "ours", "ours, pooled", "ours, renormalized"])
def test_a_compiled_model(name: str) -> None:
    torch.compiler.reset()
    layer = seen(LAYERS[name]())
    plain = copy.deepcopy(layer)
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(batch())
    plain(batch())
    before = everything(layer)["bytes"]
    with paused_statistics(compiled):
        torch.testing.assert_close(compiled(batch(seed=1)), copy.deepcopy(plain)(batch(seed=1)))
    assert everything(layer)["bytes"] == before
    compiled(batch(seed=2))
    plain(batch(seed=2))
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())


def test_a_compiled_layer_that_does_not_ask_gets_back_what_it_had_at_the_end() -> None:
    torch.compiler.reset()
    layer = seen(nn.InstanceNorm2d(3, track_running_stats=True))
    compiled: Any = torch.compile(layer, backend="eager")
    compiled(batch())
    before = everything(layer)
    with paused_statistics(compiled):
        compiled(batch(seed=1))
    assert everything(layer) == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what is meant here, for the models that exist
def test_a_scripted_model_gets_back_what_it_had_at_the_end() -> None:
    scripted: Any = torch.jit.script(nn.Sequential(nn.BatchNorm2d(3)))
    scripted(batch())
    before = {name: buffer.clone() for name, buffer in scripted.named_buffers()}
    with paused_statistics(scripted):
        scripted(batch(seed=1))
    torch.testing.assert_close(dict(scripted.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["torch", "ours"])
def test_replicas_of_a_model_in_other_threads(name: str) -> None:
    model = nn.Sequential(seen(LAYERS[name]()))
    before = everything(model)
    with paused_statistics(model):
        threads = [threading.Thread(target=model, args=(batch(seed=seed),)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert everything(model) == before


@pytest.mark.parametrize("name", ["torch", "ours", "ours, renormalized"])
def test_a_step_of_virtual_adversarial_training_moves_the_statistics_once(name: str) -> None:
    layer = LAYERS[name]()
    plain = copy.deepcopy(layer)
    for step in range(3):
        x = batch(seed=step)
        with paused_statistics(layer):
            noisy = (x + 0.1 * torch.randn_like(x)).requires_grad_()
            layer(noisy).square().sum().backward()
        layer(x)
        plain(x)
    torch.testing.assert_close(layer.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_the_front_door_asks_whose_model_it_is() -> None:
    layer = nt.BatchNorm2d(3)
    with normwise.paused_statistics(layer):
        layer(batch())
    assert int(layer.num_batches_tracked or 0) == 0
    with pytest.raises(TypeError) as refused, normwise.paused_statistics("model"):  # type: ignore[arg-type]  # on purpose
        pass
    assert str(refused.value) == (
        "paused_statistics needs a PyTorch model (torch.nn.Module), received the string 'model': "
        "build the model, load its weights, and pass it."
    )
    wrong: Any = "model"
    with pytest.raises(TypeError) as refused, paused_statistics(wrong):
        pass
    assert str(refused.value) == (
        "paused_statistics needs a torch.nn.Module, received the string 'model': "
        "build the model, load its weights, and pass it."
    )
