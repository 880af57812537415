"""Layers that do not know their number of channels: from an input or a checkpoint they become those that know it."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.torch.models.fusion.fuse import fuse

C = 6
INPUTS: dict[str, list[tuple[int, ...]]] = {
    "BatchNorm1d": [(4, C), (4, C, 5)],
    "BatchNorm2d": [(4, C, 3, 5)],
    "BatchNorm3d": [(4, C, 2, 3, 5)],
    "InstanceNorm1d": [(4, C, 5), (C, 5)],
    "InstanceNorm2d": [(4, C, 3, 5), (C, 3, 5)],
    "InstanceNorm3d": [(4, C, 2, 3, 5), (C, 2, 3, 5)],
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]
Pair = tuple[Any, Any]


def pair(name: str, **settings: Any) -> Pair:
    """A lazy layer, and one that was told its channels."""
    theirs = {"affine": True, "track_running_stats": True, **settings}
    return getattr(nt, f"Lazy{name}")(**settings), getattr(nt, name)(C, **theirs)


def trained(name: str, shape: tuple[int, ...], **settings: Any) -> dict[str, Any]:
    """A checkpoint of PyTorch's layer after two batches."""
    layer = getattr(nn, name)(C, **{"affine": True, "track_running_stats": True, **settings})
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for _ in range(2):
        layer(torch.randn(shape) + 3)
    state: dict[str, Any] = layer.state_dict()
    return state


def nothing(lazy: Any, known: Any, _: object) -> Pair:
    return lazy, known


def loaded(lazy: Any, known: Any, state: dict[str, Any]) -> Pair:
    for layer in (lazy, known):
        assert str(layer.load_state_dict(copy.deepcopy(state))) == "<All keys matched successfully>"
    return lazy, known


def assigned(lazy: Any, known: Any, state: dict[str, Any]) -> Pair:
    for layer in (lazy, known):
        layer.load_state_dict(copy.deepcopy(state), assign=True)
    return lazy, known


def from_meta(lazy: Any, known: Any, state: dict[str, Any]) -> Pair:
    lazy.to("meta")
    return assigned(lazy, known, state)


def loaded_twice(lazy: Any, known: Any, state: dict[str, Any]) -> Pair:
    return loaded(*loaded(lazy, known, state), state)


def loaded_from_lazy(lazy: Any, known: Any, _: object) -> Pair:
    lazy.load_state_dict(copy.deepcopy(lazy).state_dict())
    return lazy, known


def copied(lazy: Any, known: Any, _: object) -> Pair:
    return copy.deepcopy(lazy), known


def copied_after_loading(lazy: Any, known: Any, state: dict[str, Any]) -> Pair:
    return copied(*loaded(lazy, known, state), state)


def pickled(lazy: Any, known: Any, _: object) -> Pair:
    return pickle.loads(pickle.dumps(lazy)), known


def saved(lazy: Any, known: Any, _: object) -> Pair:
    file = io.BytesIO()
    torch.save(lazy, file)
    file.seek(0)
    return torch.load(file, weights_only=False), known


def in_double(lazy: Any, known: Any, _: object) -> Pair:
    return lazy.double(), known.double()


def in_half(lazy: Any, known: Any, _: object) -> Pair:
    return lazy.half(), known.half()


def loaded_in_half(lazy: Any, known: Any, state: dict[str, Any]) -> Pair:
    return loaded(*in_half(lazy, known, state), state)


def emptied(lazy: Any, known: Any, _: object) -> Pair:
    lazy.to("meta").to_empty(device="cpu")
    return lazy, known


WAYS = [
    nothing,
    loaded,
    assigned,
    from_meta,
    loaded_twice,
    loaded_from_lazy,
    copied,
    copied_after_loading,
    pickled,
    saved,
    in_double,
    in_half,
    loaded_in_half,
    emptied,
]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """The class, every attribute that is a number, and every tensor."""
    assert type(one) is type(other)
    assert repr(one) == repr(other)
    tensors = [dict([*layer.named_parameters(), *layer.named_buffers()]) for layer in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for key, value in tensors[0].items():
        assert value.dtype == tensors[1][key].dtype
        assert type(value) is type(tensors[1][key])
        torch.testing.assert_close(value, tensors[1][key], rtol=0, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", INPUTS)
def test_it_becomes_the_layer_that_was_told_its_channels(name: str, way: Callable[..., Pair]) -> None:
    dtype = torch.half if "half" in way.__name__ else torch.double if "double" in way.__name__ else torch.float
    for shape, settings, training in product(INPUTS[name], SETTINGS, (True, False)):
        lazy, known = (
            layer.train(training) for layer in way(*pair(name, **settings), trained(name, shape, **settings))
        )
        for seed in range(2):
            x = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3).to(dtype)
            torch.testing.assert_close(lazy(x), known(x), rtol=0, atol=0)
            assert lazy.num_features == C
            assert_same(lazy, known)


@pytest.mark.parametrize("name", INPUTS)
def test_a_checkpoint_tells_all_before_any_input(name: str) -> None:
    lazy, known = loaded(*pair(name), trained(name, INPUTS[name][0]))
    assert lazy.num_features == C
    assert_same(lazy, known)


@pytest.mark.parametrize("name", INPUTS)
def test_a_checkpoint_in_part_leaves_the_rest_at_its_beginning(name: str) -> None:
    state = trained(name, INPUTS[name][0])
    for half in (("weight", "bias"), ("running_mean", "running_var", "num_batches_tracked")):
        lazy, known = pair(name)
        for layer in (lazy, known):
            layer.load_state_dict({key: state[key] for key in half}, strict=False)
        x = torch.randn(INPUTS[name][0])
        torch.testing.assert_close(lazy(x), known(x), rtol=0, atol=0)
        assert_same(lazy, known)


@pytest.mark.parametrize("name", INPUTS)
def test_parameters_start_again_after_a_checkpoint(name: str) -> None:
    lazy, known = loaded(*pair(name), trained(name, INPUTS[name][0]))
    lazy.reset_parameters()
    known.reset_parameters()
    assert torch.equal(lazy.weight, torch.ones(C))
    assert_same(lazy, known)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 5, 6, 7)], ids=str)
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_of_the_wrong_rank_is_refused_in_torchs_words_and_changes_nothing(
    name: str, shape: tuple[int, ...]
) -> None:
    lazy, known = pair(name)
    with pytest.raises(ValueError, match=r"^expected .*\dD") as expected:
        known(torch.randn(shape))
    before = copy.deepcopy(lazy)
    with pytest.raises(ValueError, match=r"^expected .*\dD") as refused:
        lazy(torch.randn(shape))
    assert str(refused.value) == str(expected.value)
    assert type(lazy) is type(before)
    assert lazy.num_features == 0
    assert lazy.has_uninitialized_params()
    assert lazy(torch.randn(INPUTS[name][0])).shape == INPUTS[name][0]


@pytest.mark.parametrize("name", INPUTS)
def test_on_the_meta_device_throughout(name: str) -> None:
    for shape in INPUTS[name]:
        with torch.device("meta"):
            layer = getattr(nt, f"Lazy{name}")()
        assert layer(torch.empty(shape, device="meta")).shape == shape
        assert layer.num_features == C
        assert all(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers()))


@pytest.mark.parametrize("name", INPUTS)
def test_the_first_call_takes_a_residual_and_a_mask(name: str) -> None:
    shape = INPUTS[name][-1]
    residual, mask = torch.randn(shape), torch.ones(1, *[1] * (len(shape) - 1), dtype=torch.bool)
    calls: list[Callable[[Any], Tensor]] = [
        lambda layer: layer(residual, residual),
        lambda layer: layer(input=residual, residual=residual),
        lambda layer: layer(residual, mask=mask),
    ]
    for call in calls:
        lazy, known = pair(name)
        lazy.activation = known.activation = "relu"
        torch.testing.assert_close(call(lazy), call(known), rtol=0, atol=0)
        assert_same(lazy, known)


def test_other_channels_than_the_checkpoints_are_refused_as_by_the_layer_that_knows_them() -> None:
    lazy, known = loaded(*pair("BatchNorm2d"), trained("BatchNorm2d", INPUTS["BatchNorm2d"][0]))
    messages = []
    for layer in (lazy, known):
        with pytest.raises(RuntimeError) as refused:
            layer(torch.randn(4, C + 1, 3, 3))
        messages.append(str(refused.value))
    assert messages[0] == messages[1] == f"running_mean should contain {C + 1} elements not {C}"


@pytest.mark.parametrize("run", [True, False], ids=["after a forward", "at once"])
@pytest.mark.parametrize("module", [nt, nn], ids=["ours", "theirs"])
def test_whole_models_know_their_channels_after_a_checkpoint(module: Any, run: bool) -> None:
    def made() -> nn.Sequential:
        model = nn.Sequential(module.LazyBatchNorm2d(), nn.ReLU()).eval()
        state = trained("BatchNorm2d", INPUTS["BatchNorm2d"][0])
        model.load_state_dict({f"0.{key}": value for key, value in state.items()})
        if run:
            model(torch.randn(INPUTS["BatchNorm2d"][0]))
        return model

    if module is nn and not run:  # PyTorch's are lazy until their first input, whatever they have loaded
        report = fuse(made())
        assert report.left == {"0": "it is lazy and has not seen its first input"}
        return
    synchronized = made()
    nt.convert_to_synchronized(synchronized)
    assert type(synchronized[0]) is nt.SyncBatchNorm
    assert synchronized[0].num_features == C
    per_domain: Any = nt.convert_to_domains(made(), ["day", "night"]).model
    assert per_domain[0].of("day").running_mean.shape == (C,)
    fused = made()
    assert fuse(fused).fused == {"0": "relu"}
    assert type(fused[0]) is nt.BatchNorm2d
    assert fused[0].num_features == C


def test_pooled_statistics_load_as_well() -> None:
    known = nt.BatchNorm2d(C, estimator="pooled")
    known(torch.randn(4, C, 3, 5))
    lazy = nt.LazyBatchNorm2d(estimator="pooled")
    lazy.load_state_dict(known.state_dict())
    x = torch.randn(4, C, 3, 5)
    torch.testing.assert_close(lazy(x), known(x), rtol=0, atol=0)
    assert_same(lazy, known)


def test_the_layer_without_any_tensor_learns_its_channels_from_the_first_input() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns that 0 channels are not 3
        layer = nt.LazyInstanceNorm1d(affine=False, track_running_stats=False)
        assert layer(torch.randn(3, 15)).shape == (3, 15)
        assert layer.num_features == 3
        assert nt.LazyInstanceNorm1d()(torch.randn(3, 15)).shape == (3, 15)
