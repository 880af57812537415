"""The short way of a small plain call gives what the general way gives, and leaves to it whatever is not plain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import normwise.torch as nt
from normwise.kernels.choose import TOO_SMALL, built
from normwise.kernels.kernel import Call
from normwise.torch.layers import tracked
from normwise.torch.steps.call import choice_for, like_torch
from normwise.torch.steps.normalize_small import normalize_small

pytestmark = pytest.mark.skipif(not built(), reason="without the compiled kernels there is no short way")

SHAPES = (
    (2, 1), (8, 3), (64, 128), (600, 4), (70, 2000), (4, 3, 5), (4, 8, 10, 10), (3, 8, 4, 5), (2, 3, 4, 1),
    (1, 5, 1, 1), (0, 3, 4, 4), (2, 3, 4, 4, 4), (1, 30, 2, 7, 7),
)  # fmt: skip
FORMATS = {"first": torch.contiguous_format, "last": torch.channels_last}
LAYERS: dict[int, Any] = {2: nt.BatchNorm1d, 3: nt.BatchNorm1d, 4: nt.BatchNorm2d, 5: nt.BatchNorm3d}


def watched(monkeypatch: pytest.MonkeyPatch, *, on: bool = True) -> list[bool]:
    """A list that gets, for each call of a layer, whether the short way served it; off, it serves none."""
    served: list[bool] = []

    def look(*arguments: Any) -> Tensor | None:
        y = normalize_small(*arguments) if on else None
        served.append(y is not None)
        return y

    monkeypatch.setattr(tracked, "normalize_small", look)
    return served


def run(layer: nn.Module, *given: Tensor, training: bool) -> list[Tensor]:
    """All that a call gives and changes: output, gradients, buffers; or the error's text, as a name of a buffer."""
    layer = copy.deepcopy(layer).train(training)
    inputs = [
        each.detach().clone(memory_format=torch.preserve_format).requires_grad_(training and each.is_floating_point())
        for each in given
    ]
    with torch.set_grad_enabled(training):
        y = layer(*inputs)
        if training:
            y.backward(torch.linspace(-1, 2, y.numel()).to(y.dtype).reshape(y.shape))
    gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    return [y.detach(), *(x.grad for x in inputs if x.grad is not None), *gradients, *layer.buffers()]


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu:0.2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_both_ways_agree_to_the_last_bit(
    shape: tuple[int, ...],
    last: bool,
    dtype: torch.dtype,
    activation: str | None,
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = LAYERS[len(shape)](shape[1], activation=activation).to(dtype)
    torch.manual_seed(0)
    nn.init.uniform_(layer.weight)
    x = torch.randn(shape, dtype=dtype) * 3 + 1
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    results: list[Any] = []
    for on in (True, False):
        with monkeypatch.context() as patch:
            watched(patch, on=on)
            try:
                results.append(run(layer, x, training=training))
            except ValueError as error:
                results.append(str(error))
    if isinstance(results[0], str) or isinstance(results[1], str):
        assert results[0] == results[1]
    else:
        assert len(results[0]) == len(results[1])
        assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layouts", ["first first", "first last", "last first", "last last"])
def test_an_addition_goes_the_short_way_too(
    layouts: str, dtype: torch.dtype, activation: str | None, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = nt.BatchNorm2d(8, activation=activation)
    torch.manual_seed(0)
    given = [
        torch.randn(4, 8, 5, 6, dtype=dtype).contiguous(memory_format=FORMATS[layout]) for layout in layouts.split()
    ]
    results = []
    for on in (True, False):
        with monkeypatch.context() as patch:
            served = watched(patch, on=on)
            results.append(run(layer, *given, training=training))
            assert served == [on]
    assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("residual", "says"),
    [
        (torch.ones(4, 8, 5, 1), "residual must have the shape of the input"),
        ("x", "residual must be a tensor"),
        (torch.ones(4, 8, 5, 6, device="meta"), "residual must be on the device of the input"),
        (torch.ones(4, 8, 5, 6, dtype=torch.float64), None),
        (nn.Parameter(torch.ones(4, 8, 5, 6)), None),
    ],
)
def test_another_addition_is_left_to_the_general_way(
    residual: Any, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, layer = watched(monkeypatch), nt.BatchNorm2d(8)
    with pytest.raises((ValueError, TypeError), match=says) if says else nullcontext():
        layer(torch.randn(4, 8, 5, 6), residual)
    assert not served
    assert int(layer.get_buffer("num_batches_tracked")) == (says is None)


def test_an_image_read_with_its_channels_last_keeps_its_axes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's backward mixes up axes where the stride of an axis of size 1 is another than its place gives it."""
    served, layer = watched(monkeypatch), nt.BatchNorm2d(3)
    image = torch.randn(5, 6, 3).permute(2, 0, 1)[None]
    assert image.is_contiguous(memory_format=torch.channels_last)
    layer(image.requires_grad_())
    layer(image.detach().clone(memory_format=torch.channels_last))
    assert served == [False, True]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_it_serves_only_what_would_be_chosen_for_the_operator(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = LAYERS[len(shape)](shape[1])
    served = watched(monkeypatch)
    x = torch.randn(shape)
    if x.numel() > shape[1]:
        layer(x)
        call = Call(x, None, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps, None, None)
        assert served == [choice_for(like_torch(call, by_batch=True), by_batch=True) is TOO_SMALL]
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value") if x.numel() else torch.no_grad():
            layer(x)
        assert served == [False]


# What a layer may have become, by the attribute and what to make of it.
CHANGES: dict[str, tuple[str, Callable[[], Any]]] = {
    "statistics not tracked": ("track_running_stats", lambda: False),
    "paused": ("_paused", lambda: True),
    "plain average": ("momentum", lambda: None),
    "momentum a whole number": ("momentum", lambda: 0),
    "scale in float16": ("weight", lambda: nn.Parameter(torch.ones(8).half())),
    "scale with strides": ("weight", lambda: nn.Parameter(torch.ones(8, 2)[:, 0])),
    "no shift": ("bias", lambda: None),
    "mean with strides": ("running_mean", lambda: torch.zeros(8, 2)[:, 0]),
    "mean of another size": ("running_mean", lambda: torch.zeros(7)),
    "nobody counts": ("num_batches_tracked", lambda: None),
    "counted in floats": ("num_batches_tracked", lambda: torch.zeros(())),
    "wrong activation": ("activation", lambda: "rellu"),
    "eps 0": ("eps", lambda: 0.0),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("change", [*CHANGES, "a batch that is not finite", "parametrized"])
def test_a_layer_that_is_not_plain_gives_the_same_or_refuses_the_same(
    change: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[Any] = []
    for on in (True, False):
        torch.manual_seed(0)
        layer, x = nt.BatchNorm2d(8), torch.randn(4, 8, 5, 5)
        if change in CHANGES:
            setattr(layer, CHANGES[change][0], CHANGES[change][1]())
        elif change == "parametrized":
            parametrize.register_parametrization(layer, "bias", nn.Tanh())
        else:
            x[0, 1, 0, 0] = float("nan")
        with monkeypatch.context() as patch:
            watched(patch, on=on)
            try:
                results.append(run(layer, x, training=training))
            except (ValueError, TypeError, RuntimeError) as error:
                results.append((type(error), str(error)))
    if isinstance(results[0], tuple) or isinstance(results[1], tuple):
        assert results[0] == results[1]
    else:
        assert all(torch.equal(a.nan_to_num(77), b.nan_to_num(77)) for a, b in zip(*results, strict=True))


def test_a_change_of_the_kernel_by_name_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    served = watched(monkeypatch)
    monkeypatch.setattr("normwise.kernels.choose._ASKED", "two_pass")
    nt.BatchNorm2d(8)(torch.randn(4, 8, 5, 5))
    assert served == [False]


def under_vmap(layer: nt.BatchNorm2d, x: Tensor) -> None:
    torch.func.vmap(layer.eval())(x[None])


def under_grad(layer: nt.BatchNorm2d, x: Tensor) -> None:
    torch.func.grad(lambda value: layer.eval()(value).sum())(x)


def under_make_fx(layer: nt.BatchNorm2d, x: Tensor) -> None:
    make_fx(layer.eval())(x)


def under_a_mode(layer: nt.BatchNorm2d, x: Tensor) -> None:
    with FlopCounterMode(display=False):
        layer(x)


@pytest.mark.parametrize("look_on", [under_vmap, under_grad, under_make_fx, under_a_mode])
def test_what_looks_on_is_left_to_the_general_way(
    look_on: Callable[[nt.BatchNorm2d, Tensor], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = watched(monkeypatch)
    look_on(nt.BatchNorm2d(8), torch.randn(4, 8, 5, 5))
    assert served
    assert not any(served)


def test_a_forward_that_a_checkpoint_runs_again_goes_the_general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    served = watched(monkeypatch)
    layer = nt.BatchNorm2d(8)
    y: Any = checkpoint(layer, torch.randn(4, 8, 5, 5, requires_grad=True), use_reentrant=False)
    y.sum().backward()
    assert served == [True, False]
    assert layer.num_batches_tracked is not None
    assert int(layer.num_batches_tracked) == 1
