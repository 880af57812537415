"""Conversion from plain to synchronized batch norms and back: what stays, what is left, what PyTorch's would lose."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from normwise.errors import NormwiseError
from normwise.estimators import Pooled
from normwise.torch.layers.conversion_guard import QConfig


class Several(nn.Module):
    """A network with every kind of batch norm, one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.norm = nt.BatchNorm2d(4, activation="silu", estimator="pooled", on_tiny_batch="renorm", momentum=0.3)
        self.same = self.norm
        self.frozen = nt.BatchNorm2d(4, eps=1e-3)
        self.frozen.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(self.same(self.norm(self.first(x))))
        return y


def trained() -> Several:
    torch.manual_seed(0)
    model = Several()
    for seed in range(3):
        model(data(seed))
    return model


def data(seed: int) -> Tensor:
    return torch.randn((8, 3, 5, 5), generator=torch.Generator().manual_seed(seed)) + 2


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_every_plain_layer_becomes_synchronized_and_stays_itself() -> None:
    model = trained()
    plain, state = copy.deepcopy(model), contents(model)
    layers, parameters = dict(model.named_modules()), dict(model.named_parameters())
    found = nt.convert_to_synchronized(model)
    assert found.model is model
    assert found.layers == ["first.1", "norm", "same", "frozen"]
    assert found.left == {}
    assert dict(model.named_modules()) == layers
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    for name in found.layers:
        assert type(model.get_submodule(name)) is nt.SyncBatchNorm
    assert contents(model).keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in contents(model).items())
    settings = ("activation", "estimator", "on_tiny_batch", "momentum", "eps", "training")
    for name, layer in plain.named_modules():
        if isinstance(layer, nt.BatchNorm2d):
            now = model.get_submodule(name)
            assert [getattr(now, each) for each in settings] == [getattr(layer, each) for each in settings]
    assert model.norm.estimator == Pooled()
    assert not model.frozen.weight.requires_grad
    assert torch.equal(model(data(7)), plain(data(7)))
    assert torch.equal(model.eval()(data(8)), plain.eval()(data(8)))


def test_and_back_is_what_it_was() -> None:
    model = trained()
    attributes = {name: dict(vars(layer)) for name, layer in model.named_modules()}
    plain = copy.deepcopy(model)
    nt.convert_to_synchronized(model)
    found = nt.convert_from_synchronized(model)
    assert found.layers == ["first.1", "norm", "same", "frozen"]
    for name, layer in plain.named_modules():
        assert type(model.get_submodule(name)) is type(layer)
        assert vars(model.get_submodule(name)).keys() == attributes[name].keys(), name
    assert torch.equal(model(data(7)), plain(data(7)))
    assert [*model.state_dict()] == [*plain.state_dict()]
    for name, value in contents(model).items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_what_was_set_since_stays_on_the_way_back() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(3))
    nt.convert_to_synchronized(model)
    model[0].activation = "relu"
    nt.convert_from_synchronized(model)
    assert type(model[0]) is nt.BatchNorm1d
    assert model[0].activation == "relu"


def test_hooks_are_called_and_handles_still_remove_them() -> None:
    model = trained()
    calls: list[str] = []
    before = model.norm.register_forward_pre_hook(lambda *_: calls.append("before"))
    model.norm.register_full_backward_hook(lambda *_: calls.append("back"))
    nt.convert_to_synchronized(model)
    model.norm(torch.randn(2, 4, 3, 3, requires_grad=True)).sum().backward()
    assert calls == ["before", "back"]
    before.remove()
    nt.convert_from_synchronized(model)
    model.norm(torch.randn(2, 4, 3, 3))
    assert calls == ["before", "back"]


def test_an_optimizer_from_before_still_has_the_parameters() -> None:
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nt.convert_to_synchronized(model)
    weight = model.norm.weight.detach().clone()
    model(data(0)).pow(3).sum().backward()
    optimizer.step()
    assert not torch.equal(model.norm.weight, weight)


class Residual(nn.Module):
    """A block as in a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.norm(self.conv(x)) + x)
        return y


def test_a_fused_model_stays_fused() -> None:
    torch.manual_seed(0)
    plain = Residual()
    model = copy.deepcopy(plain)
    assert dict(normwise.fuse(model).fused) == {"norm": "add, relu"}
    nt.convert_to_synchronized(model)
    assert type(model.norm).__name__ == "SyncBatchNorm"
    torch.testing.assert_close(model(data(0)), plain(data(0)))
    nt.convert_from_synchronized(model)
    assert type(model.norm).__module__ == "normwise.torch.layers.batch_norm"
    torch.testing.assert_close(model.eval()(data(1)), plain.eval()(data(1)))


def test_layers_with_another_gather_step_are_left_with_the_reason() -> None:
    class Mine(nn.BatchNorm2d):
        pass

    model = nn.ModuleDict(
        {
            "plain": nn.BatchNorm2d(4),
            "ghost": nt.GhostBatchNorm2d(4, num_splits=2),
            "renorm": nt.BatchRenorm2d(4),
            "white": nt.IterativeNorm2d(4),
            "domains": nt.PerDomain(nt.BatchNorm2d(4), ["a", "b"]),
            "lazy": nt.LazyBatchNorm2d(),
            "mine": Mine(4),
            "sync": nt.SyncBatchNorm(4),
            "instance": nn.InstanceNorm2d(4),
        }
    )
    kinds = {name: type(layer) for name, layer in model.named_modules()}
    found = nt.convert_to_synchronized(model)
    assert found.layers == ["plain"]
    assert found.left == {
        "ghost": "it takes parts of a batch for themselves, which joining batches would undo",
        "renorm": "it corrects each batch by the running statistics, which is another remedy for small ones",
        "white": "it whitens by a covariance, and only means and variances are joined",
        "domains": "it keeps statistics for each domain, and which one a batch is of may differ between processes",
        "lazy": "it has not seen an input yet",
        "mine": "it is a Mine, not exactly a BatchNorm1d, 2d or 3d",
        "sync": "it is synchronized already",
    }
    assert {name: type(layer) for name, layer in model.named_modules()} == {**kinds, "plain": nt.SyncBatchNorm}


def test_of_pytorchs_own_layer_the_group_is_kept() -> None:
    group = object()
    model: Any = nn.Sequential(nn.SyncBatchNorm(3, process_group=group), nn.SyncBatchNorm(3), nn.BatchNorm1d(3))
    nt.convert_to_synchronized(model)
    assert [layer.process_group for layer in model] == [group, None, None]
    found = nt.convert_from_synchronized(model)
    assert found.layers == ["2"]
    reason = "it was made as one, for any number of axes: say with plain=BatchNorm2d what it is to become"
    assert found.left == {"0": reason, "1": reason}
    nt.convert_from_synchronized(model, plain=nn.BatchNorm1d)
    assert [type(layer) for layer in model] == [nn.BatchNorm1d] * 3
    assert "process_group" not in vars(model[0])


def test_pytorchs_synchronized_models_become_plain() -> None:
    """PyTorch has no way back, and its layer does not train on a CPU."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    plain(data(0))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    nt.convert_from_synchronized(model, plain=nt.BatchNorm2d)
    assert type(model[1]) is nt.BatchNorm2d
    torch.testing.assert_close(model(data(1)), plain(data(1)))
    torch.testing.assert_close(dict(model.state_dict()), dict(plain.state_dict()))


def test_nothing_to_convert_is_an_error() -> None:
    with pytest.raises(NormwiseError) as caught:
        nt.convert_to_synchronized(nn.Sequential(nn.Linear(2, 2), nt.SyncBatchNorm(2)))
    assert str(caught.value) == "Sequential has no batch norm to synchronize (1: it is synchronized already)."
    with pytest.raises(NormwiseError) as plain:
        nt.convert_from_synchronized(nn.Sequential(nn.BatchNorm1d(2)))
    assert str(plain.value) == "Sequential has no synchronized batch norm to make plain."
    for wrong, name in ((nn.SyncBatchNorm, "SyncBatchNorm"), ("relu", "'relu'")):
        with pytest.raises(TypeError) as kind:
            nt.convert_from_synchronized(nn.Sequential(nt.SyncBatchNorm(2)), plain=wrong)  # type: ignore[arg-type]  # wrong
        assert str(kind.value) == (f"plain must be a BatchNorm1d, 2d or 3d, received {name}: pass the class itself.")


def test_on_an_error_the_model_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    kinds = [type(layer) for layer in model.modules()]
    attributes = [dict(vars(layer)) for layer in model.modules()]
    calls = iter(range(9))

    def failing(layer: Any, group: Any) -> None:
        if next(calls) == 1:
            raise RuntimeError("no such group")
        object.__setattr__(layer, "_group", group)

    monkeypatch.setattr(nt.SyncBatchNorm, "process_group", property(lambda _: None, failing))
    with pytest.raises(RuntimeError, match="no such group"):
        nt.convert_to_synchronized(model)
    assert [type(layer) for layer in model.modules()] == kinds
    assert [vars(layer).keys() for layer in model.modules()] == [each.keys() for each in attributes]
    monkeypatch.undo()
    assert nt.convert_to_synchronized(model).layers == ["first.1", "norm", "same", "frozen"]


def test_checkpoints_go_both_ways() -> None:
    model = trained()
    state = contents(model)
    again = nt.convert_to_synchronized(Several()).model
    again.load_state_dict(state)
    assert torch.equal(again.eval()(data(5)), model.eval()(data(5)))
    theirs = nn.SyncBatchNorm(4)
    theirs.load_state_dict(nt.SyncBatchNorm(4).state_dict())
    ours = nt.SyncBatchNorm(4)
    ours.load_state_dict(theirs.state_dict())
    assert [*ours.state_dict()] == [*theirs.state_dict()] == [*nn.BatchNorm2d(4).state_dict()]


def test_a_converted_model_can_be_saved_as_a_whole() -> None:
    model = nt.convert_to_synchronized(trained()).model
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again.eval()(data(5)), model.eval()(data(5)))
    assert type(nt.convert_from_synchronized(again).model.norm) is nt.BatchNorm2d


def test_the_signature_is_torchs_and_more() -> None:
    layer: Any = nt.SyncBatchNorm(3, 1e-3, 0.2, False, True, None, "cpu", torch.float64, activation="relu")
    theirs = nn.SyncBatchNorm(3, 1e-3, 0.2, False, True, None, "cpu", torch.float64)
    assert layer.extra_repr() == theirs.extra_repr() + ", activation=relu"
    assert layer.running_mean.dtype is torch.float64
    for x in (torch.zeros(3), torch.zeros(2, 0)):
        with pytest.raises(ValueError, match=r"at least 2D input|input channels should be non-zero") as ours:
            layer(x)
        with pytest.raises(ValueError, match=r"at least 2D input|input channels should be non-zero") as right:
            theirs(x)
        assert str(ours.value) == str(right.value)


def test_in_one_process_it_is_plain_batch_norm() -> None:
    for shape in ((4, 3), (4, 3, 5), (4, 3, 2, 2), (4, 3, 2, 2, 2)):
        x = torch.randn(shape, dtype=torch.float64)
        ours, theirs = nt.SyncBatchNorm(3, dtype=torch.float64), nn.SyncBatchNorm(3, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


LOSSES: dict[str, tuple[nn.Module, str]] = {
    "activation": (nt.BatchNorm2d(4, activation="relu"), "its activation"),
    "estimator": (nt.BatchNorm2d(4, estimator="pooled"), "its estimator"),
    "policy": (nt.BatchNorm2d(4, on_tiny_batch="running"), "its on_tiny_batch"),
    "ghost": (nt.GhostBatchNorm2d(4, num_splits=2), "all that GhostBatchNorm2d adds"),
    "renorm": (nt.BatchRenorm2d(4, activation="relu"), "all that BatchRenorm2d adds, its activation"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_pytorchs_conversion_is_refused_where_it_would_lose_something(name: str) -> None:
    layer, lost = LOSSES[name]
    with pytest.raises(NormwiseError) as caught:
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), layer))
    assert str(caught.value) == (
        "torch.nn.SyncBatchNorm.convert_sync_batchnorm would make a torch.nn.SyncBatchNorm of "
        f"{type(layer).__name__}({layer.extra_repr()}), without {lost}: build the model again, of which it has "
        "converted a part by now, and use normwise.torch.convert_to_synchronized."
    )


def test_pytorchs_conversion_of_a_whitening_layer_is_refused() -> None:
    with pytest.raises((NormwiseError, AttributeError), match=r"convert_sync_batchnorm"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nt.IterativeNorm2d(4)))


def test_pytorchs_conversion_would_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard; if PyTorch keeps it one day, the guard can go."""
    monkeypatch.delattr("normwise.torch.layers.tracked.TrackedBatchNorm.qconfig")
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nt.BatchNorm2d(4, activation="relu")))
    assert type(model[0]) is nn.SyncBatchNorm
    assert model.eval()(-torch.ones(1, 4, 1, 1)).max() < 0


def test_pytorchs_conversion_of_what_it_can_keep_goes_on() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nt.BatchNorm2d(4), nt.GroupNorm(2, 4)))
    assert [type(layer) for layer in model] == [nn.SyncBatchNorm, nt.GroupNorm]


def test_our_method_of_that_name_keeps_everything() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nt.BatchNorm2d(4, activation="relu"), nt.IterativeNorm2d(4))
    found: Any = nt.SyncBatchNorm.convert_sync_batchnorm(model)
    assert found is model
    assert [type(layer) for layer in found] == [nt.SyncBatchNorm, nt.SyncBatchNorm, nt.IterativeNorm2d]
    assert found[1].activation == "relu"
    bare = nn.Linear(2, 2)
    assert nt.SyncBatchNorm.convert_sync_batchnorm(bare) is bare


def test_quantization_can_set_its_attribute() -> None:
    layer: Any = nt.BatchNorm2d(4)
    assert not hasattr(layer, "qconfig")
    with pytest.raises(AttributeError, match="'BatchNorm2d' object has no attribute 'qconfig'"):
        layer.qconfig  # noqa: B018  # to ask for it is the test
    layer.qconfig = "mine"
    assert layer.qconfig == "mine"
    del layer.qconfig
    assert not hasattr(layer, "qconfig")
    assert isinstance(nt.BatchNorm2d.qconfig, QConfig)


def test_a_reason_that_many_layers_have_is_said_once_and_a_report_does_not_print_the_model() -> None:
    class Own(nn.BatchNorm1d):
        """A layer of a package that normwise does not know."""

    with pytest.raises(NormwiseError) as caught:
        normwise.convert_to_synchronized(nn.Sequential(*(Own(2) for _ in range(5))))
    assert str(caught.value).startswith("Sequential has no batch norm to synchronize (0 and 4 more: it is a")
    assert str(caught.value).count("Own") == 1
    found = normwise.convert_to_synchronized(nn.Sequential(nn.BatchNorm1d(2), Own(2)))
    assert str(found).startswith("1 batch norms converted, 1 left (1: it is a")


@pytest.mark.parametrize("group", ["all", [0, 1]])
def test_what_is_no_group_of_processes_is_refused_and_nothing_changes(group: Any) -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.raises(TypeError, match=r"^process_group must be a group of torch\.distributed, .*, received "):
        normwise.convert_to_synchronized(model, process_group=group)
    assert type(model[0]) is nn.BatchNorm1d
