"""``fuse``: what it leaves alone and the reason it gives, and that an error leaves the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise.torch as nt
from normwise.torch.models.fusion import fuse as room
from normwise.torch.models.fusion.fuse import fuse
from tests.torch import networks_to_fuse as networks


class Around(nn.Module):
    """A convolution, a batch norm, an activation, and a forward that is given."""

    def __init__(self, way: Callable[[Around, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU()
        self.slope = 1.0
        self.way = way

    def forward(self, x: Tensor) -> Any:
        if self.way is not None:
            return self.way(self, x)
        return F.relu(self.norm(self.conv(x)) * self.slope)


def both(model: Around, x: Tensor) -> Tensor:
    y = model.norm(x)
    found: Tensor = F.relu(y) + y
    return found


def twice(model: Around, x: Tensor) -> Tensor:
    return F.relu(model.norm(F.relu(model.norm(x))))


def by_mode(model: Around, x: Tensor) -> Tensor:
    y = model.norm(x)
    return F.relu(y) if model.training else torch.tanh(y)


def changed_between(model: Around, x: Tensor) -> Tensor:
    y = model.norm(x)
    x.mul_(2.0)
    return F.relu(y + x)


def never(model: Around, x: Tensor) -> Any:
    return model.conv(x)


REASONS: list[tuple[Callable[[Around, Tensor], Any], str]] = [
    (both, "its output is used in more than one place"),
    (twice, "it is called more than once"),
    (by_mode, "something else follows it in training than in inference"),
    (changed_between, "something between it and the addition may change its input in place"),
    (never, "no forward calls it"),
]


@pytest.mark.parametrize(("way", "why"), REASONS)
def test_a_forward_that_does_not_allow_it(way: Callable[[Around, Tensor], Any], why: str) -> None:
    model = Around(way)
    report = fuse(model)
    assert (report.fused, report.swapped, report.left) == ({}, {}, {"norm": why})
    assert type(model.norm) is nn.BatchNorm2d
    assert type(model) is Around


class WithArgument(Around):
    def forward(self, x: Tensor, *skip: Tensor) -> Any:
        y = self.norm(x)
        return self.act(y + skip[0] if skip else y)


class Grad(Around):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            y = self.norm(x)
        return F.relu(y)


class Asking(Around):
    def forward(self, x: Tensor) -> Any:
        return F.relu(self.norm(torch.cat(x) if isinstance(x, list) else x))


class Decorated(Around):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return F.relu(self.norm(x))


class Counting(Around):
    calls = 0

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return F.relu(self.norm(x))


class Noting(Around):
    """Writes into a list that is empty until its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Any] = []

    def forward(self, x: Tensor) -> Any:
        self.shapes.append(x.shape)
        return F.relu(self.norm(x))


class Replacing(Noting):
    """Writes another item into its list."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = [None]

    def forward(self, x: Tensor) -> Any:
        self.shapes[0] = x.shape
        return F.relu(self.norm(x))


class Deciding(Around):
    def forward(self, x: Tensor) -> Any:
        return F.relu(self.norm(x)) if x.sum() > 0 else x


UNFOLLOWED: list[tuple[type[Around], str]] = [
    (WithArgument, "cannot be followed: its forward takes arguments of any number or by name only"),
    (Counting, "cannot be followed: its forward changes attributes of the module"),
    (Noting, "cannot be followed: its forward changes attributes of the module"),
    (Replacing, "cannot be followed: its forward changes attributes of the module"),
    (Deciding, "cannot be followed: its forward depends on the data"),
    (Grad, "cannot be followed: its forward runs one part without gradients and another not"),
    (Asking, "cannot be rewritten: its forward calls `isinstance`, which a trace answers once"),
    (Decorated, "cannot be rewritten: its forward is decorated, or calls what is (Decorated.forward)"),
]


@pytest.mark.parametrize(("kind", "why"), UNFOLLOWED)
def test_a_forward_that_one_trace_does_not_stand_for(kind: type[Around], why: str) -> None:
    model = kind()
    before = copy.deepcopy({name: value for name, value in vars(model).items() if name != "_modules"})
    assert fuse(model).left == {"norm": f"the model ({kind.__name__}) {why}"}
    assert {name: value for name, value in vars(model).items() if name != "_modules"} == before
    report = fuse(nn.Sequential(nn.Identity(), model))
    assert report.left == {"1.norm": f"1 {why}"}


def hooked_norm(model: nn.Sequential) -> None:
    model[1].register_forward_hook(lambda *_: None)


def hooked_activation(model: nn.Sequential) -> None:
    model[2].register_forward_pre_hook(lambda *_: None)


def frozen(model: nn.Sequential) -> None:
    model[1].eval()


def lazy(model: nn.Sequential) -> None:
    model[1] = nn.LazyBatchNorm2d()


def synchronized(model: nn.Sequential) -> None:
    model[1] = nn.SyncBatchNorm(3)


def done_already(model: nn.Sequential) -> None:
    model[1] = nt.BatchNorm2d(3, activation="silu")


def replaced_forward(model: nn.Sequential) -> None:
    model[1].forward = lambda x: x


STATES: list[tuple[Callable[[nn.Sequential], None], str]] = [
    (hooked_norm, "it has hooks"),
    (hooked_activation, "the activation behind it, 2, has hooks"),
    (frozen, "it is frozen: in inference mode while the model is in training mode"),
    (lazy, "it is lazy and has not seen its first input"),
    (synchronized, "it is a SyncBatchNorm, not exactly a BatchNorm1d, 2d or 3d"),
    (done_already, "it does its activation itself already: silu"),
    (replaced_forward, "its forward was replaced on the instance"),
]


@pytest.mark.parametrize(("change", "why"), STATES)
def test_a_batch_norm_in_a_state_that_is_not_to_be_touched(change: Callable[[nn.Sequential], None], why: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    change(model)
    kinds = [type(module) for module in model]
    assert fuse(model).left == {"1": why}
    assert [type(module) for module in model] == kinds


def test_what_hangs_on_a_sequence_that_is_walked_over_is_not_fused_by_its_order() -> None:
    report = fuse(networks.Branching())
    why = "the model (Branching) cannot be followed: its forward depends on the data"
    assert report.left == {"walked.1": why, "norm": why}
    assert report.fused == {
        "stem.1": "silu",
        "block.bn1": "relu",
        "block.bn2": "add, relu",
        "walked.3.bn1": "relu",
        "walked.3.bn2": "add, relu",
    }


def test_shared_modules() -> None:
    """A block that is called twice is fused, a batch norm that stands in two places is not."""
    act, norm = nn.ReLU(), nn.BatchNorm2d(3)
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), act)
    model = nn.Sequential(block, block, nn.Sequential(norm, act), nn.Sequential(norm, nn.Tanh()))
    plain = copy.deepcopy(model)
    report = fuse(model)
    assert (report.fused, report.left) == ({"0.1": "relu"}, {"2.0": "it is called more than once"})
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(model(x), plain(x))


def test_settings_that_a_forward_was_written_for_are_watched() -> None:
    class Scaled(Around):
        def forward(self, x: Tensor) -> Any:
            return F.relu(self.norm(self.conv(x))) * self.slope

    model = Scaled()
    assert fuse(model).fused == {"norm": "relu"}
    model.slope = 2.0
    with pytest.raises(RuntimeError) as refused:
        model(torch.randn(2, 3, 4, 4))
    assert str(refused.value) == (
        "slope of this Scaled was 1.0 when the model was fused, received 2.0: "
        "set it before `fuse`, which wrote the forward for that value."
    )


def test_a_residual_that_broadcasts_still_does() -> None:
    model = Around(lambda model, x: F.relu(model.norm(model.conv(x)) + x.mean((2, 3), keepdim=True)))
    plain = copy.deepcopy(model)
    x = torch.randn(2, 3, 4, 4)
    assert fuse(model).fused == {"norm": "add, relu"}
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(training: bool) -> None:
    model = networks.resnet18().train(training)
    fuse(model)
    assert {module.training for module in model.modules()} == {training}


def test_a_model_without_storage() -> None:
    with torch.device("meta"):
        model = networks.resnet18()
    assert len(fuse(model).fused) == 9
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert model(torch.empty(2, 3, 8, 8, device="meta")).shape == (2, 5)


def test_a_batch_norm_by_itself_and_a_model_without_one() -> None:
    norm = nn.BatchNorm1d(3)
    assert (
        str(fuse(norm)) == "0 of 1 batch norms fused, 1 swapped, 0 left\n  swapped  (the model): it is the model itself"
    )
    assert type(norm) is nt.BatchNorm1d
    assert str(fuse(nn.Linear(2, 2))) == "nothing fused: the model has no batch norm"


@pytest.mark.parametrize("name", ["_become", "class_with_forwards", "rewrite"])
@pytest.mark.parametrize("at", [0, 3])
def test_an_error_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
    model = networks.resnet18()
    kinds = {path: type(module) for path, module in model.named_modules()}
    held = {path: (dict(module.__dict__), dict(module._buffers)) for path, module in model.named_modules()}
    real, calls = getattr(room, name), []

    def failing(*args: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) > at:
            raise MemoryError("injected")
        return real(*args, **named)

    monkeypatch.setattr(room, name, failing)
    with pytest.raises(MemoryError, match=r"^injected$"):
        fuse(model)
    assert {path: type(module) for path, module in model.named_modules()} == kinds
    now = {path: (dict(module.__dict__), dict(module._buffers)) for path, module in model.named_modules()}
    assert [*now] == [*held]
    for path, (attributes, buffers) in now.items():
        assert [*attributes] == [*held[path][0]]
        assert [*buffers] == [*held[path][1]]
    monkeypatch.undo()
    assert len(fuse(model).fused) == 9


def test_an_error_while_the_classes_change_leaves_the_model_as_it_was() -> None:
    model = networks.resnet18()
    norm, place = model.bn1, (model, "relu")
    with pytest.raises(TypeError, match="assignment"):
        room._apply([(norm, "relu")], [place], [(model, int)])  # type: ignore[list-item]  # no class of a module
    assert (type(norm), type(model.relu), type(model)) == (nn.BatchNorm2d, nn.ReLU, networks.ResNet)
    assert "activation" not in norm.__dict__
    assert "running_count" not in norm._buffers


@pytest.mark.parametrize(
    ("wrong", "received"),
    [
        (None, "NoneType: pass the model itself"),
        ({}, "a dict: build the model, load what is in it with load_state_dict, and pass the model"),
        ([nn.BatchNorm2d(3)], "a list: pass one model at a time"),
        (nn.BatchNorm2d, "the class BatchNorm2d: pass an instance of it"),
    ],
)
def test_what_is_no_model_is_refused(wrong: Any, received: str) -> None:
    with pytest.raises(TypeError) as refused:
        fuse(wrong)
    assert str(refused.value) == f"fuse needs a torch.nn.Module, received {received}."
