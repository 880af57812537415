"""Masks: padded sequences are treated as if they had not been padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import normwise.torch as nt
from normwise.estimators import RunningStatistics, estimator_class, names
from normwise.estimators.window import Window
from normwise.kernels import reference
from normwise.torch.functional import batch_norm
from tests.cases import running

LENGTHS = torch.tensor([7, 2, 5, 1])
MASK = torch.arange(7) < LENGTHS[:, None]
NAN = float("nan")


def padded(padding: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Four sequences of three features, (N, C, L), filled up with the padding."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn((4, 3, 7), generator=draw, dtype=torch.float64).to(dtype)
    return x.masked_fill(~MASK[:, None], padding)


def unpadded(x: Tensor) -> Tensor:
    """The values that count, (sum of lengths, C)."""
    return x.movedim(1, -1)[MASK]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_ragged_sequences_come_out_as_if_they_had_not_been_padded(activation: str | None, training: bool) -> None:
    results = []
    for mask in (MASK, None):
        torch.manual_seed(0)
        layer = nt.BatchNorm1d(3, activation=activation, dtype=torch.float64).train(training)
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
        x, residual = (padded(seed=seed).requires_grad_() for seed in (0, 1))
        if mask is None:
            y = layer(unpadded(x), unpadded(residual))
        else:
            y = layer(x, residual, mask=mask)
            assert float(y.detach().masked_select(~mask[:, None]).abs().max()) == 0.0
            y = unpadded(y)
        gradients = torch.autograd.grad(y.pow(2).sum(), (x, residual, *layer.parameters()))
        results.append((y, *gradients, *running(layer)))
    for found, right in zip(*results, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "relu6", "silu", "gelu", "sigmoid", "tanh", "mish"])
@pytest.mark.parametrize("padding", [NAN, float("inf"), 1e30])
def test_what_is_in_the_padding_does_not_matter(padding: float, activation: str | None, training: bool) -> None:
    results = []
    for filler in (0.0, padding):
        layer = nt.BatchNorm1d(3, activation=activation, dtype=torch.float64).train(training)
        x, residual = (padded(filler, seed).requires_grad_() for seed in (0, 1))
        y = layer(x, residual, mask=MASK)
        dy = padded(filler, 2)  # the loss may be anything there too
        gradients = torch.autograd.grad(y, (x, residual, *layer.parameters()), dy)
        results.append({"y": y, **dict(zip(("x", "residual", "weight", "bias"), gradients, strict=True))})
        results[-1] |= dict(zip(("mean", "var"), running(layer), strict=True))
    for key, right in results[0].items():
        assert torch.equal(results[1][key], right), f"{key} depends on the padding"


def test_what_is_in_the_padding_does_not_matter_for_second_derivatives() -> None:
    results = []
    for filler in (0.0, NAN):
        x = padded(filler).requires_grad_()
        y = batch_norm(x, None, None, training=True, mask=MASK, activation="tanh")
        (first,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), x)
        results.append(second)
    assert bool(results[1].isfinite().all())
    assert torch.equal(*results)


SETTINGS: list[dict[str, Any]] = [{}, {"momentum": None}, *({"estimator": name} for name in ("pooled", "debiased_ema"))]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_an_empty_mask_changes_nothing_and_gives_zeros(settings: dict[str, Any]) -> None:
    layer = nt.BatchNorm1d(3, activation="sigmoid", **settings)
    layer(torch.randn(4, 3, 7))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    x = torch.full((4, 3, 7), NAN).requires_grad_()
    y = layer(x, torch.full((4, 3, 7), NAN), mask=torch.zeros(4, 7, dtype=torch.bool))
    assert float(y.detach().abs().max()) == 0.0
    gradients = torch.autograd.grad(y.sum(), (x, *layer.parameters()))
    assert all(float(gradient.abs().max()) == 0.0 for gradient in gradients)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_mask_that_leaves_one_value_is_refused(settings: dict[str, Any]) -> None:
    layer = nt.BatchNorm1d(3, **settings)
    mask = torch.zeros(4, 7, dtype=torch.bool)
    mask[2, 3] = True
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got 1 value where"):
        layer(torch.randn(4, 3, 7), mask=mask)
    assert int(layer.state_dict()["num_batches_tracked"]) == 0
    layer.eval()
    assert layer(torch.randn(4, 3, 7), mask=mask).count_nonzero() == 3  # with fixed statistics one is enough


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 1, 7), (4, 7), (1, 1, 7), (1, 7), (4, 1, 1), (4, 1), (1, 1, 1)])
def test_every_shape_that_a_mask_may_have(shape: tuple[int, ...], training: bool) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask.view(-1)[0] = True
    whole = (mask.unsqueeze(1) if mask.dim() == 2 else mask).expand(4, 1, 7)
    x = padded()
    layers = [nt.BatchNorm1d(3, dtype=torch.float64).train(training) for _ in range(2)]
    torch.testing.assert_close(layers[0](x, mask=mask), layers[1](x, mask=whole), rtol=0, atol=0)
    torch.testing.assert_close(running(layers[0]), running(layers[1]))
    y = reference.forward_batch(x.numpy(), None, None, 1e-5, weights=whole.numpy())[0]
    if training:
        np.testing.assert_allclose(batch_norm(x, None, None, training=True, mask=mask).numpy(), y, atol=1e-12)


def test_masks_of_images_and_of_features() -> None:
    x = torch.randn(5, 3, 4, 6)
    mask = torch.rand(5, 4, 6) < 0.5
    y = nt.BatchNorm2d(3)(x, mask=mask)
    torch.testing.assert_close(y.movedim(1, -1)[mask], nt.BatchNorm1d(3)(x.movedim(1, -1)[mask]))
    features, kept = torch.randn(9, 3), torch.arange(9) % 3 > 0
    y = nt.BatchNorm1d(3)(features, mask=kept)
    torch.testing.assert_close(y[kept], nt.BatchNorm1d(3)(features[kept]))
    assert float(y[~kept].detach().abs().max()) == 0.0


def test_a_full_mask_is_no_mask() -> None:
    x = padded()
    layers = [nt.BatchNorm1d(3, dtype=torch.float64) for _ in range(2)]
    found, right = layers[0](x, mask=torch.ones(4, 7, dtype=torch.bool)), layers[1](x)
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(running(layers[0]), running(layers[1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [*names(), "the default", "momentum=None"])
def test_running_statistics_of_ragged_batches_are_the_estimators(name: str, dtype: torch.dtype) -> None:
    settings: dict[str, Any] = {"estimator": Window(start=1, stop=3) if name == "window" else name}
    if name in ("the default", "momentum=None"):
        settings = {"momentum": 0.1 if name == "the default" else None}
    layer = nt.BatchNorm1d(3, dtype=dtype, **settings)
    law = {"the default": "ema", "momentum=None": "cumulative"}.get(name, name)
    needs_weight = law in ("ema", "debiased_ema")
    estimator: Any = settings.get("estimator")
    if not isinstance(estimator, Window):
        made: Any = estimator_class(law)
        estimator = made(0.1) if needs_weight else made()
    statistics = RunningStatistics.start(3)
    for step in range(4):
        x = padded(NAN, step, dtype) + step
        layer(x, mask=MASK)
        statistics = estimator.update(statistics, reference.moments(x.numpy(), weights=MASK[:, None].numpy()))
    mean, var = running(layer)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(mean.numpy(), statistics.mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(var.numpy(), statistics.var, rtol=rtol)
    assert int(layer.state_dict()["num_batches_tracked"]) == 4


def test_nothing_in_inference_is_normalized_without_its_mask() -> None:
    # A weight of (1, C) is one that torch takes.
    mask = torch.zeros(2, 4, dtype=torch.bool)
    y = batch_norm(torch.ones(2, 3, 4), torch.zeros(3), torch.ones(3), torch.ones(1, 3), None, mask=mask)
    assert float(y.abs().max()) == 0.0


def test_no_channels_at_all() -> None:
    mask = torch.ones(4, dtype=torch.bool)
    assert batch_norm(torch.zeros(4, 0), None, None, training=True).shape == (4, 0)
    assert batch_norm(torch.zeros(4, 0), None, None, training=True, mask=mask).shape == (4, 0)
