"""``save_memory``: fewer bytes between forward and backward, and every gradient the same to the last bit."""

from __future__ import annotations

import copy
import gc
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.kernels import choose
from normwise.kernels.reference_activations import ACTIVATIONS
from normwise.torch.models.memory import recipes
from normwise.torch.models.memory.save_memory import save_memory
from tests.torch.networks_to_fuse import BasicBlock, ResNet
from tests.torch.saved_networks import NETWORKS, assert_same_bits, chain, compared, fused, images, trained

needs_kernels = pytest.mark.skipif(not choose.built(), reason="the compiled kernels are not built")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """These networks are tiny, and are to be treated as large ones."""
    monkeypatch.setattr(recipes, "FEWEST_BYTES", 0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_to_the_last_bit(name: str, layout: torch.memory_format) -> None:
    model = fused(NETWORKS[name]).to(memory_format=layout)  # type: ignore[call-overload]  # torch leaves it out
    report = compared(model, images().to(memory_format=layout))
    assert len(report.saved) >= 2
    assert report.ratio is not None
    assert report.ratio < 0.9


@needs_kernels
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_where_the_compiled_kernels_compute(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_ASKED", "cpu")
    report = compared(fused(NETWORKS[name]), images())
    assert len(report.saved) >= 2
    assert report.ratio is not None
    assert report.ratio < 0.9


@pytest.mark.parametrize("kernel", ["cpu", "aten"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [None, *sorted(ACTIVATIONS), "leaky_relu:0.2", "leaky_relu:-0.2", "elu:0.5"])
def test_every_activation_and_dtype(
    kernel: str, dtype: torch.dtype, activation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "cpu" and not choose.built():
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(choose, "_ASKED", kernel)

    class Adding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nt.BatchNorm1d(3, activation=activation) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            first: Tensor = self.first(x) * 2
            second: Tensor = self.second(first.square(), first)  # which squares keep
            return second.square()

    model = Adding().to(dtype)
    x = torch.randn(6, 3, 4, dtype=torch.float64).to(dtype)
    report = compared(model, x)
    slope_of_result = {"hardsigmoid"} if dtype is torch.float64 else set()
    if activation not in slope_of_result or kernel == "cpu":
        assert len(report.saved) == 2, report


@pytest.mark.parametrize("kernel", ["cpu", "aten"])
def test_layers_in_inference_mode_and_without_parameters(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "cpu" and not choose.built():
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(choose, "_ASKED", kernel)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nt.BatchNorm2d(4, activation="relu", affine=False),
        nn.Conv2d(4, 4, 1),
        nt.BatchNorm2d(4, activation="silu"),
        nn.Conv2d(4, 4, 1),
        nt.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 4, 1),
    )
    model[3].eval()
    report = compared(model, images())
    assert len(report.saved) == 3


def test_every_second_of_a_row_of_residual_outputs_is_made_again() -> None:
    model = fused(lambda: ResNet(BasicBlock, (5, 1)))
    report = compared(model, images())
    ends = [f"layer1.{number}.bn2" for number in range(1, 5)]
    assert [name in report.saved for name in ends] == [True, False, True, False] or [
        name in report.saved for name in ends
    ] == [False, True, False, True]
    assert {report.kept[name] for name in ends if name in report.kept} == {recipes.CUT}


class Dropping(nn.Module):
    """Outputs die at once, and others come to their places in memory: what has an output's address is not it."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nt.BatchNorm2d(2, activation="relu") for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(3))
        self.addresses: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(())
        for number, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            y = norm(x * (number + 1.0))
            self.addresses.append(y.data_ptr())
            total = total + convolution(y).mean() + y.sum() / y.numel()
            del y
            other = x * 2.0  # saved, of its size and shape
            self.addresses.append(other.data_ptr())
            total = total + other.square().mean()
            del other
        return total


@needs_kernels
def test_memory_that_is_used_again_is_not_taken_for_what_was_there() -> None:
    # So large that it comes from the kernels' pool: the next output of its size has its address.
    model, x = Dropping(), torch.randn(2, 2, 384, 384)
    twin = copy.deepcopy(model)
    save_memory(twin)
    found = trained(twin, x)
    assert len({*twin.addresses}) < len(twin.addresses), "no address came twice, so this test shows nothing"
    assert_same_bits(found, trained(model, x))


class Changing(nn.Module):
    def __init__(self, change: Callable[[Tensor], Any], when: str) -> None:
        super().__init__()
        self.norm = nt.BatchNorm2d(3)
        self.convolution = nn.Conv2d(3, 3, 1)
        self.change, self.when = change, when

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.when == "before":
            self.change(y)
        z: Tensor = self.convolution(y)
        if self.when == "behind":
            self.change(y)
        return z


def unseen(y: Tensor) -> None:
    with torch.no_grad():
        y.mul_(0.5)


def other_memory(y: Tensor) -> None:
    y.data = y.detach() * 3


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "seen": lambda y: y.mul_(0.5),
    "of a part": lambda y: y[0].zero_(),
    "unseen by autograd": unseen,
    "other memory": other_memory,
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_output_that_was_changed_in_place_is_saved_as_it_is_then(name: str) -> None:
    report = compared(Changing(CHANGES[name], "before"), images())
    assert report.bytes_after == report.bytes_before


@pytest.mark.parametrize("name", ["seen", "of a part", "unseen by autograd"])
def test_a_change_in_place_of_what_was_saved_is_an_error_as_without(name: str) -> None:
    model = Changing(CHANGES[name], "behind")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(model, images())
    save_memory(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(model, images())


def test_a_change_in_place_of_what_is_kept_is_an_error_as_without() -> None:
    class Kept(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2.0
            z = y.square()
            y.add_(1)
            return z

    model = nn.Sequential(Kept(), nn.BatchNorm2d(3))
    save_memory(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        trained(model, images())


def test_what_is_added_was_changed_before_the_addition() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nt.BatchNorm2d(3), nt.BatchNorm2d(3, activation="relu")
            self.convolution = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            r = self.first(x)
            unseen(r)
            y = self.second(x * 2, r)
            z: Tensor = self.convolution(y)
            return z

    report = compared(Added(), images())
    assert report.kept["second"] == recipes.UNKNOWN_RESIDUAL


def test_bytes_are_those_that_live_behind_the_forward() -> None:
    model = fused(chain)
    x = images(32)
    report = save_memory(model, x)
    assert report.bytes_before is not None
    assert report.bytes_after is not None
    report.undo()

    def alive() -> int:
        gc.collect()
        found = {}
        for each in gc.get_objects():
            if type(each) is Tensor and not each.requires_grad:
                found[each.untyped_storage().data_ptr()] = each.untyped_storage().nbytes()
        return sum(found.values())

    with save_memory(model):
        y = model(x)
        during = alive()  # what is packed stands in Python
        y.sum().backward()
        behind = alive()  # although y, and with it the graph, is there still
    assert during - behind >= 0.8 * report.bytes_after - x.nbytes
    assert during - behind <= 1.2 * report.bytes_after


def test_a_model_inside_a_model_and_twice_in_a_forward() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nt.BatchNorm2d(3, activation="relu"), nn.Conv2d(3, 3, 1))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(self.inner(x))
            return y

    model = Twice()
    twin = copy.deepcopy(model)
    save_memory(twin.inner)
    save_memory(twin)
    assert_same_bits(trained(twin, images()), trained(model, images()))


def test_an_error_in_the_forward_ends_it() -> None:
    class Failing(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("stop here")

    model = nn.Sequential(nt.BatchNorm2d(3), Failing())
    save_memory(model)
    with pytest.raises(ValueError, match="stop here"):
        model(images())
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    with pytest.raises(ValueError, match="expected 4D"):
        model(torch.ones(3, 3))
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_undo_copies_and_pickles() -> None:
    model = fused(chain)
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    def hooks(of: nn.Module) -> list[int]:
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in of.modules()]

    with save_memory(model) as report:
        assert hooks(model) != before
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert hooks(twin) == hooks(model)
            other = copy.deepcopy(twin)
            assert_same_bits(trained(twin, images()), trained(other, images()))
            save_memory(twin).undo()
            assert hooks(twin) == before
        once = hooks(model)
        save_memory(model)
        assert hooks(model) == once
    assert hooks(model) == before
    report.undo()
    flags = [(module._forward_hooks_with_kwargs, module._forward_hooks_always_called) for module in model.modules()]
    assert not any(each for pair in flags for each in pair)


def test_the_example_leaves_the_model_as_it_is() -> None:
    model = fused(NETWORKS["with dropout"])
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    report = save_memory(model, (images(), torch.zeros(4)))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [*report.saved, *report.kept]


def test_small_outputs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "FEWEST_BYTES", 2**12)
    report = compared(fused(chain), images(6, 2))
    assert report.kept == dict.fromkeys(["1", "4", "7"], "its output has fewer than 4096 bytes")


def test_what_other_steps_made_is_kept_and_said_so() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nt.GhostBatchNorm2d(4, num_splits=2),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 1, 1),
    )
    report = compared(model, images())
    assert report.kept == {"1": recipes.OTHER_STEPS}
    assert report.saved == {"3": recipes.MADE}


def test_a_kernel_that_gives_other_bits_keeps_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_PROVED", {})
    run = recipes.Aten.run
    monkeypatch.setattr(recipes.Aten, "run", lambda self, x, residual: run(self, x, residual) * 1.0000001)
    report = compared(fused(chain), images())
    assert {*report.kept.values()} == {recipes.NOT_PROVED}
    assert not report.saved


def test_reports() -> None:
    model = fused(chain)
    text = str(save_memory(model))
    assert text.startswith(
        "3 of 3 batch norms saved; pass an example batch for the bytes and for what becomes of each\n"
    )
    assert str(save_memory(nn.Linear(2, 2))) == "nothing saved: the model has no batch norm"
    report = save_memory(model, images())
    assert re.match(
        r"3 of 3 batch norms saved, 0\.1 MB kept for the backward before, [\d.]+ kB after \(0\.\d\d\)\n", str(report)
    )


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(normwise.errors.UnsuitableModel, match="save_memory needs a PyTorch or Keras model"):
        normwise.save_memory("resnet18")
