"""Masks for each channel, and sample weights: against the reference, and against the data without what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import KernelUnavailable
from normwise.estimators import RunningStatistics, estimator_class, names
from normwise.estimators.window import Window
from normwise.kernels import choose, reference
from normwise.torch.functional import batch_norm
from tests.cases import array, running

SHAPE = (4, 3, 5, 6)
MASKS = [(4, 3, 5, 6), (1, 3, 1, 1), (4, 3, 1, 1), (1, 3, 5, 6), (4, 1, 5, 6), (1, 1, 1, 6), (4, 5, 6), (1, 5, 1)]
FORMATS = {"first": torch.contiguous_format, "last": torch.channels_last}


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(shape: tuple[int, ...]) -> Tensor:
    """True in two of three places, and in two in any channel."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.66
    mask.view(-1)[: mask.numel() // 3 + 1] = True
    return mask


def weights_of(shape: tuple[int, ...]) -> Tensor:
    draw = torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (draw * 3).masked_fill(draw < 0.2, 0)


def with_channels(weights: Tensor) -> Tensor:
    return weights.unsqueeze(1) if weights.dim() == 3 else weights


def assert_is_the_references(found: dict[str, Tensor], weights: Tensor, activation: str | None, training: bool) -> None:
    x, residual, scale, shift, mean, var, dy = parts()
    options: dict[str, Any] = {
        "activation": activation,
        "residual": array(residual),
        "weights": array(with_channels(weights)),
    }
    arguments = (array(x), array(scale), array(shift), 1e-5)
    if training:
        y, _ = reference.forward_batch(*arguments, **options)
        gradients = reference.backward_batch(array(dy), *arguments, **options)
    else:
        fixed = (array(x), array(mean), array(var), array(scale), array(shift), 1e-5)
        y, gradients = (
            reference.forward_fixed(*fixed, **options),
            reference.backward_fixed(array(dy), *fixed, **options),
        )
    for key, right in {"y": y, **gradients._asdict()}.items():
        np.testing.assert_allclose(array(found[key]), right, rtol=1e-9, atol=1e-10, err_msg=key)


def parts() -> tuple[Tensor, ...]:
    """x, residual, scale, shift, mean, var and dy."""
    return (
        tensor(*SHAPE), tensor(*SHAPE, seed=3), tensor(3, seed=4), tensor(3, seed=5), tensor(3, seed=6),
        tensor(3, seed=7).square() + 0.5, tensor(*SHAPE, seed=8),
    )  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("kind", ["mask", "sample_weight"])
@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_every_shape_agrees_with_the_reference(shape: tuple[int, ...], kind: str, layout: str, training: bool) -> None:
    weights = mask_of(shape) if kind == "mask" else weights_of(shape)
    extras: dict[str, Any] = {kind: weights}
    x, residual, scale, shift, mean, var, dy = parts()
    leaves = [
        each.to(memory_format=FORMATS[layout]) if each.dim() == 4 else each for each in (x, residual, scale, shift)
    ]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    y = batch_norm(
        leaves[0], mean.clone(), var.clone(), leaves[2], leaves[3], training, activation="silu", residual=leaves[1],
        **extras,
    )  # fmt: skip
    y.backward(dy)
    names_of = ("x", "residual", "scale", "shift")
    found = {"y": y, **{name: leaf.grad for name, leaf in zip(names_of, leaves, strict=True) if leaf.grad is not None}}
    assert_is_the_references(found, weights, "silu", training)


def test_torch_lets_the_padding_of_a_channel_into_its_statistics() -> None:
    x, mask = tensor(*SHAPE), mask_of(SHAPE)
    plain, layer = nn.BatchNorm2d(3, momentum=1.0).double(), nt.BatchNorm2d(3, momentum=1.0).double()
    plain(x.masked_fill(~mask, 100))
    layer(x.masked_fill(~mask, 100), mask=mask)
    for channel in range(3):
        values = x[:, channel][mask[:, channel]]
        assert float(running(plain)[0][channel]) > 10
        torch.testing.assert_close(running(layer)[0][channel], values.mean())
        torch.testing.assert_close(running(layer)[1][channel], values.var())


def test_each_channel_comes_out_as_if_it_had_never_been_padded() -> None:
    x, mask = tensor(*SHAPE), mask_of(SHAPE)
    y = nt.BatchNorm2d(3).double()(x.masked_fill(~mask, float("nan")), mask=mask)
    for channel in range(3):
        inside = mask[:, channel]
        alone = nn.BatchNorm1d(1).double()(x[:, channel][inside][:, None])
        torch.testing.assert_close(y[:, channel][inside], alone[:, 0])
    assert float(y.detach()[~mask].abs().sum()) == 0


def test_a_weight_of_two_is_the_same_sample_twice() -> None:
    x, weight = tensor(4, 3), torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    layers = [nt.BatchNorm1d(3, dtype=torch.float64, estimator="pooled") for _ in range(2)]
    repeats = torch.tensor([0, 1, 1, 2, 2, 2])
    for _ in range(2):
        y, right = layers[0](x, sample_weight=weight), layers[1](x[repeats])
        torch.testing.assert_close(y[repeats], right)
    torch.testing.assert_close(running(layers[0]), running(layers[1]))
    assert float(layers[0].state_dict()["running_count"]) == int(layers[1].state_dict()["running_count"]) == 12


def test_weights_of_one_are_no_weights_and_times_a_mask_they_are_the_mask() -> None:
    x, mask = tensor(*SHAPE), mask_of((4, 5, 6))
    ones = torch.ones(4, dtype=torch.float64)
    for extras in ({}, {"mask": mask}):
        found, right = (nt.BatchNorm2d(3, dtype=torch.float64) for _ in range(2))
        torch.testing.assert_close(found(x, sample_weight=ones, **extras), right(x, **extras))
        torch.testing.assert_close(running(found), running(right))


def test_gradients_by_finite_differences_the_weights_own_included() -> None:
    x, weights = tensor(3, 2, 2).requires_grad_(), (weights_of((3, 2, 2)) + 0.5).requires_grad_()
    call = lambda x, w: batch_norm(x, None, None, training=True, sample_weight=w, activation="tanh")  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, weights))
    assert torch.autograd.gradgradcheck(call, (x, weights))


@pytest.mark.parametrize("kind", ["mask", "sample_weight"])
@pytest.mark.parametrize("name", names())
def test_running_statistics_are_the_estimators(name: str, kind: str) -> None:
    made: Any = estimator_class(name)
    estimator = Window(0, 9) if name == "window" else made(0.1) if "ema" in name else made()
    layer = nt.BatchNorm2d(3, estimator=estimator, dtype=torch.float64)
    by_channel = [RunningStatistics.start(1) for _ in range(3)]
    for step in range(3):
        x = tensor(*SHAPE, seed=step) + step
        weights = mask_of(SHAPE).roll(step, 0) if kind == "mask" else weights_of(SHAPE).roll(step, 0)
        layer(x, **{kind: weights})
        for channel in range(3):
            at = slice(channel, channel + 1)
            batch = reference.moments(array(x[:, at]), weights=array(weights[:, at]))
            by_channel[channel] = estimator.update(by_channel[channel], batch)
    mean, var = running(layer)
    np.testing.assert_allclose(array(mean), [float(each.mean[0]) for each in by_channel], rtol=1e-12)
    np.testing.assert_allclose(array(var), [float(each.var[0]) for each in by_channel], rtol=1e-12)
    assert int(layer.state_dict()["num_batches_tracked"]) == 3


def test_counts_for_each_channel_are_saved_and_loaded() -> None:
    layer, twin, fresh = (nt.BatchNorm2d(3, estimator="pooled", dtype=torch.float64) for _ in range(3))
    layer(tensor(*SHAPE), mask=mask_of(SHAPE))
    assert layer.state_dict()["running_count"].shape == (3,)
    assert layer.state_dict()["running_count"].dtype == torch.int64
    twin.load_state_dict(layer.state_dict())
    for each in (layer, twin):
        each(tensor(*SHAPE, seed=1))
    torch.testing.assert_close(layer.state_dict(), twin.state_dict())
    twin.load_state_dict(fresh.state_dict())
    assert twin.state_dict()["running_count"].shape == ()


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"estimator": "pooled"}], ids=str)
def test_a_channel_of_which_nothing_counts_keeps_its_statistics(settings: dict[str, Any]) -> None:
    layer = nt.BatchNorm2d(3, dtype=torch.float64, **settings)
    layer(tensor(*SHAPE))
    before = [value.clone() for value in running(layer)]
    mask = torch.tensor([True, False, True]).view(1, 3, 1, 1)
    y = layer(tensor(*SHAPE, seed=1), mask=mask)
    assert float(y.detach()[:, 1].abs().sum()) == 0
    for value, old in zip(running(layer), before, strict=True):
        assert value[1] == old[1]
        assert value[0] != old[0]
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(tensor(*SHAPE), mask=torch.zeros(1, 3, 1, 1, dtype=torch.bool))
    layer(tensor(*SHAPE), sample_weight=torch.zeros(4, dtype=torch.float64))
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(value.double(), state[key].double(), msg=key)


def test_one_value_in_one_channel_is_refused() -> None:
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[:, 1] = False
    mask[0, 1, 0, 0] = True
    for extras, what in (({"mask": mask}, "mask is True"), ({"sample_weight": mask.double()}, "weight is not 0")):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel") as refused:
            nt.BatchNorm2d(3).double()(tensor(*SHAPE), **extras)
        assert str(refused.value) == (
            "Expected more than 1 value per channel when training, got 1 value where the "
            f"{what} in input size torch.Size([4, 3, 5, 6])"
        )


@pytest.mark.parametrize("kind", ["mask", "sample_weight"])
def test_compiled_in_one_graph(kind: str) -> None:
    torch.compiler.reset()
    layer, plain = (nt.BatchNorm2d(3, dtype=torch.float64) for _ in range(2))
    extras = {kind: mask_of(SHAPE) if kind == "mask" else weights_of(SHAPE)}
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tensor(*SHAPE), **extras), plain(tensor(*SHAPE), **extras))
    torch.testing.assert_close(running(layer), running(plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    x, weights = tensor(*SHAPE).to(dtype), weights_of(SHAPE)
    y = nt.BatchNorm2d(3)(x, sample_weight=weights)
    assert y.dtype == dtype
    right = reference.forward_batch(array(x), None, None, 1e-5, weights=array(weights))[0]
    np.testing.assert_allclose(array(y), right, atol=4 * float(torch.finfo(dtype).eps))


def test_a_kernel_asked_for_by_name_that_does_not_know_them_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if not choose.built():
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(choose, "_ASKED", "cpu")
    with pytest.raises(KernelUnavailable) as refused:
        batch_norm(tensor(*SHAPE), None, None, training=True, sample_weight=torch.ones(4).double())
    assert str(refused.value) == (
        "NORMWISE_KERNEL=cpu asks for kernels that know masks which all channels share, and sample weights or a mask "
        "for each channel (in instance norm, every mask is one) were received: "
        "unset NORMWISE_KERNEL or set it to two_pass."
    )
