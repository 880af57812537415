"""The layers against torch.nn's: signature, attributes, and the same bits after every training step."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.torch.functional import batch_norm
from normwise.torch.layers.batch_norm import TORCH_HAS_BIAS

NAMES = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
LAZY = ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"]
NEW: dict[str, Any] = {"activation": None, "estimator": None, "on_tiny_batch": "error"}  # with their defaults
NEW |= {} if TORCH_HAS_BIAS else {"bias": True}
SHAPES = {  # every rank that a layer takes
    "BatchNorm1d of (N, C)": ("BatchNorm1d", (6, 3)),
    "BatchNorm1d of (N, C, L)": ("BatchNorm1d", (4, 3, 5)),
    "BatchNorm2d": ("BatchNorm2d", (2, 3, 4, 5)),
    "BatchNorm3d": ("BatchNorm3d", (2, 3, 2, 3, 2)),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "eps and momentum": {"eps": 1e-3, "momentum": 0.3},
    "momentum 0": {"momentum": 0.0},
    "momentum 1": {"momentum": 1.0},
    "affine=False": {"affine": False},
    **({"bias=False": {"bias": False}} if TORCH_HAS_BIAS else {}),
    "track_running_stats=False": {"track_running_stats": False},
    "neither affine nor tracking": {"affine": False, "track_running_stats": False},
    "float64": {"dtype": torch.float64},
}


def pair(name: str, *args: Any, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Our layer and torch's, alike."""
    return getattr(nt, name)(*args, **settings), getattr(nn, name)(*args, **settings)


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    """The same entries, dtypes and bits."""
    mine, right = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(right)
    for key in right:
        torch.testing.assert_close(mine[key], right[key], rtol=0, atol=0, msg=f"{key} differs")


def assert_same_steps(
    ours: nn.Module,
    theirs: nn.Module,
    make: Callable[[int], Tensor],
    *,
    steps: int = 3,
    compare: Callable[[Any, Any], None] | None = None,
) -> None:
    """Outputs, gradients, parameters and statistics over several steps of training, then inference."""
    same = compare or (lambda mine, right: torch.testing.assert_close(mine, right, rtol=0, atol=0))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (ours, theirs) if [*layer.parameters()]]
    for step in range(steps + 1):
        if step == steps:
            ours.eval()
            theirs.eval()
        mine, right = make(step).requires_grad_(), make(step).requires_grad_()
        y, expected = ours(mine), theirs(right)
        same(y, expected)
        assert y.stride() == expected.stride()
        for optimizer in optimizers:
            optimizer.zero_grad()
        (y * y.detach().cos()).sum().backward()
        (expected * expected.detach().cos()).sum().backward()
        same(mine.grad, right.grad)
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            same(parameter.grad, other.grad)
        for optimizer in optimizers:
            optimizer.step()
        mine_now = ours.state_dict()
        assert list(mine_now) == list(theirs.state_dict())
        for key, wanted in theirs.named_buffers():
            assert mine_now[key].dtype == wanted.dtype
            same(mine_now[key], wanted)
        assert all(int(count) == 0 for key, count in ours.named_buffers() if key == "num_batches_skipped")


@pytest.mark.parametrize("name", [*NAMES, *LAZY])
def test_the_signature_is_torchs_and_the_new_keywords(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (nt, nn))
    new = [parameter for key, parameter in ours.items() if key not in theirs]
    assert {parameter.name: parameter.default for parameter in new} == NEW
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in new)
    assert [key for key in ours if key in theirs] == list(theirs)
    for key, parameter in theirs.items():
        assert (ours[key].kind, ours[key].default) == (parameter.kind, parameter.default), key


def test_the_functions_signature_is_torchs_and_the_new_keywords() -> None:
    ours, theirs = (inspect.signature(f).parameters for f in (batch_norm, nn.functional.batch_norm))
    assert [*ours] == [*theirs, "activation", "residual", "mask", "sample_weight"]
    for key, parameter in theirs.items():
        assert (ours[key].kind, ours[key].default) == (parameter.kind, parameter.default), key


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_one_of_torchs(name: str) -> None:
    ours, theirs = pair(name, 3)
    assert isinstance(ours, getattr(nn, name))
    assert isinstance(ours, nn.modules.batchnorm._BatchNorm)
    assert {*vars(theirs)} <= {*vars(ours)}
    assert ours._version == theirs._version
    for attribute in ("num_features", "eps", "momentum", "affine", "track_running_stats", "training"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", [*NAMES, *LAZY])
def test_it_prints_itself_as_torchs_does(name: str, settings: str) -> None:
    arguments = () if name in LAZY else (3,)
    ours, theirs = pair(name, *arguments, **SETTINGS[settings])
    assert repr(ours) == repr(theirs)
    ours, theirs = pair(name, *arguments, momentum=None)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", SHAPES)
def test_the_same_bits_after_every_step(kind: str, settings: str) -> None:
    name, shape = SHAPES[kind]
    ours, theirs = pair(name, 3, **SETTINGS[settings])
    assert_same_state(ours, theirs)
    dtype = SETTINGS[settings].get("dtype", torch.float32)

    def make(step: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(step)).to(dtype)

    assert_same_steps(ours, theirs, make)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("kind", SHAPES)
def test_momentum_none_is_the_plain_average(kind: str) -> None:
    name, shape = SHAPES[kind]
    ours, theirs = pair(name, 3, momentum=None)

    def make(step: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(step))

    assert_same_steps(ours, theirs, make, compare=torch.testing.assert_close, steps=5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_taken_away_by_hand(momentum: float | None, training: bool) -> None:
    layers = pair("BatchNorm1d", 3, momentum=momentum)
    x = torch.randn(4, 3)
    for layer in layers:
        layer.train(training)
        for name in ("running_mean", "running_var"):
            setattr(layer, name, None)
    torch.testing.assert_close(layers[0](x), layers[1](x), rtol=0, atol=0)
    assert_same_state(*layers)  # num_batches_tracked is left


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_count_of_batches_taken_away_by_hand(momentum: float | None) -> None:
    layers = pair("BatchNorm1d", 3, momentum=momentum)
    x = torch.randn(4, 3)
    for layer in layers:
        setattr(layer, "num_batches_tracked", None)  # noqa: B010  # the stubs know it as a tensor
    torch.testing.assert_close(layers[0](x), layers[1](x), rtol=0, atol=0)
    assert_same_state(*layers)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_with_an_input_of_low_precision(dtype: torch.dtype, training: bool) -> None:
    ours, theirs = (layer.train(training) for layer in pair("BatchNorm2d", 3))

    def make(step: int) -> Tensor:
        return torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(step)).to(dtype)

    assert_same_steps(ours, theirs, make)


@pytest.mark.parametrize("convert", ["float", "double"])  # half precision: test_precision.py
def test_conversion_of_the_dtype(convert: str) -> None:
    ours, theirs = (getattr(layer, convert)() for layer in pair("BatchNorm2d", 3))
    assert_same_state(ours, theirs)
    x = torch.randn(2, 3, 4, 4).to(ours.weight.dtype)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_meta_device(name: str) -> None:
    ours, theirs = pair(name, 3, device="meta")
    assert [(key, value.device) for key, value in ours.state_dict().items()] == [
        (key, value.device) for key, value in theirs.state_dict().items()
    ]
    shape = dict(SHAPES.values())[name]
    assert ours(torch.empty(shape, device="meta")).shape == shape
    large = torch.empty((64, 3, *[9] * (len(shape) - 2)), device="meta").movedim(1, -1).contiguous().movedim(-1, 1)
    assert ours(large).shape == large.shape


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_copies_go_their_own_way(how: Callable[[nn.Module], nn.Module]) -> None:
    layer = nt.BatchNorm2d(3, activation="relu", estimator="pooled")
    layer(torch.randn(2, 3, 4, 4))
    twin = how(layer)
    assert repr(twin) == repr(layer)
    assert_same_state(twin, layer)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    x = torch.randn(2, 3, 4, 4) + 5
    expected = twin(x)
    assert {key: value.tolist() for key, value in layer.state_dict().items()} == {
        key: value.tolist() for key, value in before.items()
    }
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    assert_same_state(twin, layer)


def test_resetting_forgets_everything_seen() -> None:
    layer = nt.BatchNorm1d(3, estimator="pooled")
    fresh = nt.BatchNorm1d(3, estimator="pooled")
    layer(torch.randn(4, 3))
    layer.reset_running_stats()
    assert_same_state(layer, fresh)
