"""Checkpoints go both ways between these layers and torch.nn's, old ones and lazy layers included."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

import normwise.torch as nt

NAMES = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
INPUTS = {"BatchNorm1d": (4, 3, 2), "BatchNorm2d": (4, 3, 2, 2), "BatchNorm3d": (4, 3, 2, 2, 2)}
SETTINGS: list[dict[str, Any]] = [{}, {"affine": False}, {"bias": False}, {"track_running_stats": False}]


def trained(layer: nn.Module, name: str) -> nn.Module:
    """The layer after two batches, with parameters of its own."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for _ in range(2):
        layer(torch.randn(INPUTS[name]))
    return layer


def through_a_file(state: dict[str, Any]) -> Any:
    """The state as somebody reads it who trusts nobody: through a file, weights only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_loaded(layer: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Every entry of the checkpoint is in the layer."""
    mine = layer.state_dict()
    for key, value in state.items():
        torch.testing.assert_close(mine[key], value, rtol=0, atol=0)
    assert mine.keys() == state.keys()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_both_ways(name: str, settings: dict[str, Any]) -> None:
    for source, target in ((nt, nn), (nn, nt)):
        saved = trained(getattr(source, name)(3, **settings), name)
        state = through_a_file(saved.state_dict())
        assert state._metadata == saved.state_dict()._metadata  # type: ignore[attr-defined]  # torch puts it there
        layer = getattr(target, name)(3, **settings)
        assert str(layer.load_state_dict(state)) == "<All keys matched successfully>"
        assert_loaded(layer, state)
        x = torch.randn(INPUTS[name])
        torch.testing.assert_close(layer.eval()(x), saved.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("with_metadata", [True, False])
@pytest.mark.parametrize("target", [nt, nn], ids=["ours", "theirs"])
def test_a_checkpoint_from_before_batches_were_counted(target: Any, with_metadata: bool) -> None:
    state = trained(nn.BatchNorm2d(3), "BatchNorm2d").state_dict()
    del state["num_batches_tracked"]
    if with_metadata:
        state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]  # as torch saved it then
    else:
        del state._metadata  # type: ignore[attr-defined]  # a plain dictionary
    layer = target.BatchNorm2d(3)
    assert str(layer.load_state_dict(state)) == "<All keys matched successfully>"
    assert_loaded(layer, {**state, "num_batches_tracked": torch.tensor(0)})


@pytest.mark.parametrize("assign", [False, True])
def test_a_checkpoint_of_torchs_into_a_pooled_layer(assign: bool) -> None:
    state = trained(nn.BatchNorm1d(3), "BatchNorm1d").state_dict()
    keys = list(state)
    layer = nt.BatchNorm1d(3, estimator="pooled")
    layer(torch.randn(7, 3))
    assert str(layer.load_state_dict(state, assign=assign)) == "<All keys matched successfully>"
    assert list(state) == keys  # the caller's own
    assert_loaded(layer, {**state, "running_count": torch.tensor(0)})
    x = torch.randn(8, 3)
    layer(x)  # it counts from the start: nothing is known of how many values stand behind the loaded ones
    torch.testing.assert_close(layer.running_mean, x.mean(0))
    torch.testing.assert_close(layer.running_var, x.var(0))


def test_a_checkpoint_of_torchs_into_a_pooled_layer_without_memory() -> None:
    state = trained(nn.BatchNorm1d(3), "BatchNorm1d").state_dict()
    layer = nt.BatchNorm1d(3, estimator="pooled", device="meta")
    layer.load_state_dict(state, assign=True)
    assert {key: value.device.type for key, value in layer.state_dict().items()} == dict.fromkeys(
        layer.state_dict(), "cpu"
    )


def test_pooled_statistics_go_on_after_a_checkpoint() -> None:
    batches = [torch.randn(size, 3) + size for size in (5, 9, 2)]
    whole = nt.BatchNorm1d(3, estimator="pooled")
    first = nt.BatchNorm1d(3, estimator="pooled")
    for batch in batches:
        whole(batch)
    for batch in batches[:2]:
        first(batch)
    second = nt.BatchNorm1d(3, estimator="pooled")
    second.load_state_dict(through_a_file(first.state_dict()))
    second(batches[2])
    assert_loaded(second, whole.state_dict())
    together = torch.cat(batches)
    torch.testing.assert_close(second.running_mean, together.mean(0))
    torch.testing.assert_close(second.running_var, together.var(0))


def test_only_pooled_adds_an_entry() -> None:
    plain = list(nn.BatchNorm1d(3).state_dict())
    for estimator in ("ema", "debiased_ema", "cumulative"):
        assert list(nt.BatchNorm1d(3, estimator=estimator).state_dict()) == plain
    assert list(nt.BatchNorm1d(3, estimator="pooled").state_dict()) == [*plain, "running_count"]


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_a_checkpoint_that_does_not_fit_is_refused_in_torchs_words(change: str) -> None:
    state = nn.BatchNorm1d(3).state_dict()
    if change == "missing":
        del state["running_var"]
    elif change == "unexpected":
        state["other"] = torch.zeros(3)
    else:
        state["weight"] = torch.zeros(4)
    messages = []
    for layer in (nt.BatchNorm1d(3), nn.BatchNorm1d(3)):
        with pytest.raises(RuntimeError) as caught:
            layer.load_state_dict(state)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("settings", [*SETTINGS, {"momentum": None}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_lazy_layer_becomes_ours_and_does_as_torchs(name: str, settings: dict[str, Any]) -> None:
    ours, theirs = (getattr(module, f"Lazy{name}")(**settings) for module in (nt, nn))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for step in range(3):
        x = torch.randn(INPUTS[name], generator=torch.Generator().manual_seed(step))
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert type(ours) is getattr(nt, name)
    assert ours.num_features == 3
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_materializes_a_lazy_layer(name: str) -> None:
    state = trained(getattr(nn, name)(3), name).state_dict()
    layer = getattr(nt, f"Lazy{name}")(activation="relu")
    layer.load_state_dict(state)
    assert_loaded(layer, state)
    x = torch.randn(INPUTS[name])
    layer.eval()
    plain = getattr(nn, name)(3).eval()
    plain.load_state_dict(state)
    torch.testing.assert_close(layer(x), plain(x).relu(), rtol=0, atol=0)
    assert type(layer) is getattr(nt, name)


def test_a_lazy_layers_new_settings_survive_its_change_of_class() -> None:
    layer = nt.LazyBatchNorm1d(activation="relu", estimator="pooled")
    x = torch.randn(8, 3)
    assert float(layer(x).detach().min()) == 0.0
    assert type(layer).__name__ == "BatchNorm1d"
    torch.testing.assert_close(layer.running_var, x.var(0))
    assert layer.extra_repr().endswith("activation=relu, estimator=Pooled()")
