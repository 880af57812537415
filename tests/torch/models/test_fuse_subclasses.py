"""``fuse`` on batch norms of somebody's own class: where the forward is a batch norm and then an activation."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.torch.models.fusion.fuse import fuse


class BatchNormAct(nn.BatchNorm2d):
    """A norm as timm writes it: torch's forward once more, then dropout and activation."""

    def __init__(self, channels: int, act: nn.Module | None = None, drop: nn.Module | None = None) -> None:
        super().__init__(channels)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.ReLU(inplace=True) if act is None else act

    def forward(self, x: Any) -> Any:
        torch._assert(x.ndim == 4, f"expected 4D input (got {x.ndim}D input)")
        exponential_average_factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                exponential_average_factor = 1.0 / float(self.num_batches_tracked)
            else:
                exponential_average_factor = self.momentum
        bn_training = self.training or (self.running_mean is None and self.running_var is None)
        x = F.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            bn_training,
            exponential_average_factor,
            self.eps,
        )
        x = self.drop(x)
        return self.act(x)


class OnTop(nn.BatchNorm2d):
    """A norm that calls the forward of the class above, and then a function."""

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(input), 0.2)


class ByName(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input=super().forward(input))


class Twice(OnTop):
    """A class above that one, which changes nothing of what it computes."""

    def extra_repr(self) -> str:
        return f"twice, {super().extra_repr()}"


class Switched(nn.BatchNorm2d):
    """A norm with a setting that says whether there is an activation."""

    def __init__(self, channels: int, active: bool = True) -> None:
        super().__init__(channels)
        self.active = active
        self.act = nn.SiLU()

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return self.act(y) if self.active else y


class AnyRank(nn.BatchNorm2d):
    """A forward of its own for nothing, and inputs of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


KINDS: list[tuple[Callable[[], nn.BatchNorm2d], str]] = [
    (lambda: BatchNormAct(3), "relu"),
    (lambda: BatchNormAct(3, nn.SiLU()), "silu"),
    (lambda: BatchNormAct(3, nn.LeakyReLU(1e-3, inplace=True)), "leaky_relu:0.001"),
    (lambda: OnTop(3), "leaky_relu:0.2"),
    (lambda: Twice(3), "leaky_relu:0.2"),
    (lambda: Switched(3), "silu"),
    (lambda: ByName(3), "relu"),
]


NAMES = ["timm", "timm, silu", "timm, leaky", "on top", "twice", "switched", "by name"]


def prepared(norm: nn.BatchNorm2d, *behind: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(3, 3, 1), norm, *behind, nn.Conv2d(3, 2, 1)).double()


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """Outputs, gradients and statistics in training, then the outputs in inference."""
    for x in torch.randn((2, 4, 3, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        found = [model.train()(x) for model in (ours, theirs)]
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
        for model, y in zip((ours, theirs), found, strict=True):
            model.zero_grad()
            y.square().mean().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-10)
    x = torch.ones(2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("make", "activation"), KINDS, ids=NAMES)
def test_a_forward_with_an_activation_behind_the_batch_norm_is_fused(
    make: Callable[[], nn.BatchNorm2d], activation: str
) -> None:
    theirs = prepared(make())
    ours = copy.deepcopy(theirs)
    norm, kind, keys, children = ours[1], type(ours[1]), [*ours.state_dict()], [*ours[1].children()]
    assert fuse(ours).fused == {"1": activation}
    assert ours[1] is norm
    assert isinstance(norm, kind)
    assert isinstance(norm, nt.BatchNorm2d)
    assert (type(norm).__name__, type(norm).__qualname__) == (kind.__name__, kind.__qualname__)
    assert str(type(norm).__module__) == kind.__module__
    assert [*ours.state_dict()] == keys
    assert [*norm.children()] == children
    assert not theirs.load_state_dict(ours.state_dict()).missing_keys
    assert_same(ours, theirs)
    assert fuse(ours).left == {"1": f"it does its activation itself already: {activation}"}


@pytest.mark.parametrize(("make", "activation"), KINDS, ids=NAMES)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_are_the_same_and_their_own(
    make: Callable[[], nn.BatchNorm2d], activation: str, copied: Callable[[nn.Module], nn.Sequential]
) -> None:
    model = prepared(make())
    fuse(model)
    again = copied(model)
    assert type(again[1]) is type(model[1])
    assert again[1].activation == activation
    assert not {id(module) for module in model.modules()} & {id(module) for module in again.modules()}
    assert_same(again, model)
    if "act" in again[1]._modules:
        again[1].act = nn.Identity()  # what the copy watches are its own children
        x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
        assert not torch.equal(again.eval()(x), model.eval()(x))


def test_without_an_activation_of_its_own_it_takes_the_one_that_follows() -> None:
    for norm in (BatchNormAct(3, nn.Identity()), AnyRank(3), Switched(3, active=False)):
        theirs = prepared(norm, nn.Tanh())
        ours = copy.deepcopy(theirs)
        assert fuse(ours).fused == {"1": "tanh"}
        assert type(ours[2]) is nn.Identity
        assert_same(ours, theirs)


class Residual(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), norm, nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        return self.act(self.norm(self.conv(x)) + x)


def test_without_an_activation_of_its_own_it_takes_an_addition_too() -> None:
    theirs = Residual(BatchNormAct(3, nn.Identity())).double()
    ours = copy.deepcopy(theirs)
    assert fuse(ours).fused == {"norm": "add, relu"}
    assert_same(ours, theirs)
    for model in (ours, theirs):  # then its class's own forward, and behind it what it does itself
        model.norm.drop = nn.Hardtanh(-0.5, 0.5)
    assert_same(ours, theirs)


def test_it_is_its_class_again_where_something_changed() -> None:
    """A child that was replaced or is listened to, and a setting that was read."""
    theirs = prepared(BatchNormAct(3))
    ours = copy.deepcopy(theirs)
    fuse(ours)
    heard: list[int] = []
    handle = ours.get_submodule("1.act").register_forward_hook(lambda *_: heard.append(1))
    assert_same(ours, theirs)
    assert len(heard) == 3
    handle.remove()
    assert_same(ours, theirs)
    assert len(heard) == 3
    for model in (ours, theirs):
        model[1].act = nn.Sigmoid()
    assert_same(ours, theirs)
    theirs = prepared(Switched(3))
    ours = copy.deepcopy(theirs)
    fuse(ours)
    for model in (ours, theirs):
        model.get_submodule("1").active = False  # type: ignore[assignment]  # a bool, no module
    assert_same(ours, theirs)


def test_other_ranks_go_to_the_forward_of_the_class() -> None:
    norm = AnyRank(3)
    plain = copy.deepcopy(norm)
    assert str(fuse(norm)).splitlines()[0] == "0 of 1 batch norms fused, 1 swapped, 0 left"
    x = torch.randn(4, 3)
    torch.testing.assert_close(norm(x), plain(x))
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_it_compiles_in_one_graph() -> None:
    model = prepared(BatchNormAct(3)).float()
    fuse(model)
    eager = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's compiler says about its own insides
        model.compile(fullgraph=True, backend="aot_eager")
        x = torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(model(x), eager(x))
    torch.testing.assert_close(model.state_dict(), eager.state_dict())


def test_a_conversion_that_would_lose_the_activation_is_refused() -> None:
    model = prepared(BatchNormAct(3))
    fuse(model)
    with pytest.raises(NormwiseError, match="all that BatchNormAct adds, its activation"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(NormwiseError, match="1: it is a BatchNormAct, not exactly a BatchNorm1d, 2d or 3d"):
        nt.convert_to_synchronized(model)
    assert isinstance(model[1], BatchNormAct)


def test_an_error_leaves_the_layers_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    from normwise.torch.models.fusion import fuse as room

    model = nn.Sequential(BatchNormAct(3), BatchNormAct(3))
    held = [(type(norm), [*vars(norm)], dict(norm._buffers)) for norm in model]
    real, calls = room._become, []

    def failing(*args: Any) -> None:
        calls.append(1)
        real(*args)
        if len(calls) == 2:
            raise MemoryError("injected")

    monkeypatch.setattr(room, "_become", failing)
    with pytest.raises(MemoryError, match=r"^injected$"):
        fuse(model)
    assert [(type(norm), [*vars(norm)], dict(norm._buffers)) for norm in model] == held


class WithSettings(nn.BatchNorm2d):
    """A norm whose setting and child are given to it."""

    def __init__(self, on: bool, act: nn.Module) -> None:
        super().__init__(3)
        self.on, self.act = on, act

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.act(y) if self.on else y


def test_batch_norms_of_one_class_are_told_apart_by_settings_and_children() -> None:
    kinds = [(True, nn.ReLU()), (False, nn.ReLU()), (True, nn.GELU()), (True, nn.LeakyReLU(0.3)), (True, nn.ReLU())]
    model = nn.Sequential(*(WithSettings(on, act) for on, act in kinds))
    assert fuse(model).fused == {"0": "relu", "2": "gelu", "3": "leaky_relu:0.3", "4": "relu"}
