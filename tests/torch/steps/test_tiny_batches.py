"""``on_tiny_batch``: training batches with one value per channel, or with few."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.errors import UnknownName
from normwise.torch.steps.normalize_tiny import D_MAX, FEW, POLICIES, R_MAX
from tests.cases import running

ONE = {"BatchNorm1d": (1, 3), "BatchNorm2d": (1, 3, 1, 1), "BatchNorm3d": (1, 3, 1, 1, 1)}
RENORMED = [(1, 3, 1, 1), (2, 3, 1, 1), (1, 3, 5, 6)]


def made(name: str = "BatchNorm2d", policy: str = "running", **settings: Any) -> Any:
    """A layer in float64 whose statistics and parameters are not what they started as."""
    draw = torch.Generator().manual_seed(7)
    layer = getattr(nt, name)(3, on_tiny_batch=policy, dtype=torch.float64, **settings)
    with torch.no_grad():
        for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
            if tensor is not None:
                tensor.copy_(torch.rand(3, generator=draw) + 0.5)
    return layer


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(layer: nn.Module) -> dict[str, Any]:
    return {key: value.tolist() for key, value in layer.state_dict().items()}


@pytest.mark.parametrize("name", ONE)
def test_torch_and_the_default_refuse_one_value_per_channel(name: str) -> None:
    for layer in (getattr(nn, name)(3), getattr(nt, name)(3), getattr(nt, name)(3, on_tiny_batch="error")):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
            layer(torch.ones(ONE[name]))


@pytest.mark.parametrize("settings", [{}, {"estimator": "pooled"}, {"momentum": None}, {"affine": False}], ids=str)
@pytest.mark.parametrize("name", ONE)
def test_one_value_per_channel_is_normalized_by_the_running_statistics(name: str, settings: dict[str, Any]) -> None:
    layer = made(name, **settings)
    before = state(layer)
    x, same = (batch(*ONE[name]).requires_grad_() for _ in range(2))
    y = layer(x)
    assert state(layer) == before
    right = copy.deepcopy(layer).eval()(same)
    torch.testing.assert_close(y, right, rtol=1e-14, atol=0)
    y.sum().backward()
    right.sum().backward()
    torch.testing.assert_close(x.grad, same.grad)


@pytest.mark.parametrize("policy", ["running", "renorm"])
def test_batches_that_are_not_tiny_are_as_ever(policy: str) -> None:
    layer, plain = made(policy=policy), made(policy="error")
    shape = (2, 3, 1, 1) if policy == "running" else (2, 3, 4, 4)
    assert torch.equal(layer(batch(*shape)), plain(batch(*shape)))
    assert state(layer) == state(plain)


def by_paper(x: Tensor, layer: Any) -> np.ndarray[Any, Any]:
    """Algorithm 1 of the paper, in NumPy, for r_max and d_max at the end of its schedule."""
    values = x.detach().numpy()
    mean_b = values.mean((0, 2, 3), keepdims=True)
    sigma_b = np.sqrt(values.var((0, 2, 3), keepdims=True) + layer.eps)
    mean, var, gamma, beta = (
        tensor.detach().numpy().reshape(1, 3, 1, 1)
        for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    sigma = np.sqrt(var + layer.eps)
    r, d = np.clip(sigma_b / sigma, 1 / R_MAX, R_MAX), np.clip((mean_b - mean) / sigma, -D_MAX, D_MAX)
    return np.asarray(((values - mean_b) / sigma_b * r + d) * gamma + beta)


@pytest.mark.parametrize("factor", [1.0, 0.01, 1000.0])
@pytest.mark.parametrize("shape", RENORMED)
def test_few_values_are_normalized_as_the_paper_of_batch_renormalization_does(
    shape: tuple[int, ...], factor: float
) -> None:
    layer = made(policy="renorm")
    x = batch(*shape) * factor
    expected = by_paper(x, layer)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_within_the_bounds_renorm_is_what_inference_gives() -> None:
    layer = made(policy="renorm")
    x = batch(2, 3, 2, 2)
    right = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), right)


def test_the_gradient_of_renorm_takes_its_corrections_for_constants() -> None:
    layer = made(policy="renorm")
    with torch.no_grad():
        mean, var = running(layer)
        x = batch(2, 3, 2, 2)
        moments = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        sigma, sigma_b = (var + layer.eps).sqrt(), (moments[1] + layer.eps).sqrt()
        r, d = (sigma_b / sigma).view(1, 3, 1, 1), ((moments[0] - mean) / sigma).view(1, 3, 1, 1)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    weight, bias = (tensor.detach().view(1, 3, 1, 1) for tensor in (layer.weight, layer.bias))
    plain = nn.functional.batch_norm(inputs[1], None, None, training=True, eps=layer.eps)
    ((plain * r + d) * weight + bias).pow(3).sum().backward()
    layer(inputs[0]).pow(3).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_renorm_moves_the_statistics_by_what_it_saw_but_not_by_a_single_value() -> None:
    layer, plain = made(policy="renorm"), made(policy="error")
    layer(batch(4, 3, 1, 1))
    plain(batch(4, 3, 1, 1))
    torch.testing.assert_close(running(layer), running(plain))
    before = state(layer)
    layer(batch(1, 3, 1, 1))
    assert state(layer) == before


def test_the_threshold_is_where_the_gain_of_normal_values_is_four_percent_off() -> None:
    draw = np.random.default_rng(0)
    gains = [(1 / draw.standard_normal((20000, n)).std(1)).mean() for n in (FEW, FEW // 2)]
    assert gains == pytest.approx([1.04, 1.09], abs=0.01)


def mask_of(count: int, per_channel: bool = False) -> Tensor:
    """The mask of (4, 3, 7) that leaves ``count`` values, in all channels or only in the first, the others ten."""
    mask = torch.zeros(4, 3 if per_channel else 1, 7, dtype=torch.bool)
    flat = torch.arange(28).view(4, 7)
    mask[:, :] = (flat < 10)[:, None] if per_channel else (flat < count)[:, None]
    mask[:, 0] = flat < count
    return mask


@pytest.mark.parametrize("compiled", [False, True])
def test_a_mask_that_leaves_one_value(compiled: bool) -> None:
    layer = made("BatchNorm1d")
    before = state(layer)
    call = torch.compile(layer, fullgraph=True, backend="eager") if compiled else layer
    y = call(batch(4, 3, 7), mask=mask_of(1))
    torch.testing.assert_close(y, copy.deepcopy(layer).eval()(batch(4, 3, 7), mask=mask_of(1)))
    assert state(layer) == before


@pytest.mark.parametrize("policy", ["running", "renorm"])
def test_a_mask_that_leaves_one_value_in_one_channel_only(policy: str) -> None:
    layer, plain = made("BatchNorm1d", policy), made("BatchNorm1d", "error")
    x, mask = batch(4, 3, 7), mask_of(1, per_channel=True)
    y = layer(x, mask=mask)
    if policy == "running":
        fixed = made("BatchNorm1d").eval()(x, mask=mask)
        torch.testing.assert_close(y[:, 0], fixed[:, 0])
        torch.testing.assert_close(y[:, 1:], plain(x, mask=mask_of(10))[:, 1:])
    else:
        assert bool(y.isfinite().all())
        plain(x, mask=mask_of(10))
    for mine, start, right in zip(running(layer), running(made()), running(plain), strict=True):
        assert mine[0] == start[0]
        torch.testing.assert_close(mine[1:], right[1:])


@pytest.mark.parametrize("policy", ["running", "renorm"])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 2, 2), (8, 3, 4, 4)])
def test_compiled_in_one_graph(shape: tuple[int, ...], policy: str) -> None:
    layer, plain = made(policy=policy), made(policy=policy)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch(*shape)), plain(batch(*shape)))
    torch.testing.assert_close(state(layer), state(plain))


@pytest.mark.parametrize("policy", ["running", "renorm"])
def test_activation_and_residual(policy: str) -> None:
    layer, linear = made(policy=policy, activation="silu"), made(policy=policy)
    x, residual = batch(1, 3, 1, 1), batch(1, 3, 1, 1, seed=1)
    torch.testing.assert_close(layer(x, residual), nn.functional.silu(linear(x) + residual))


@pytest.mark.parametrize("policy", ["running", "renorm"])
def test_gradients_by_finite_differences(policy: str) -> None:
    layer = made(policy=policy)
    # "renorm" takes r and d for constants, so its gradient is not the slope of its output; of gamma and beta it is.
    x = batch(1, 3, 1, 1).requires_grad_(policy == "running")

    def call(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(copy.deepcopy(layer), {"weight": weight, "bias": bias}, (x,))
        return y

    weight, bias = (tensor.detach().clone().requires_grad_() for tensor in (layer.weight, layer.bias))
    assert torch.autograd.gradcheck(call, (weight, bias, x))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_is_printed_copied_and_kept_out_of_checkpoints(policy: str) -> None:
    layer = nt.BatchNorm2d(3, on_tiny_batch=policy)
    assert (f"on_tiny_batch={policy}" in repr(layer)) == (policy != "error")
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.on_tiny_batch == policy
    assert [*layer.state_dict()] == [*nn.BatchNorm2d(3).state_dict()]
    assert nt.LazyBatchNorm2d(on_tiny_batch=policy).on_tiny_batch == policy


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UnknownName) as unknown:
        nt.BatchNorm2d(3, on_tiny_batch="runing")
    assert (
        str(unknown.value) == "unknown on_tiny_batch 'runing': did you mean 'running'? Known: error, renorm, running."
    )
    with pytest.raises(ValueError, match="needs running statistics") as refused:
        nt.BatchNorm2d(3, track_running_stats=False, on_tiny_batch="running")
    assert str(refused.value) == (
        "on_tiny_batch='running' needs running statistics, received track_running_stats=False: "
        "keep the statistics, or leave it at 'error'."
    )


@pytest.mark.parametrize("policy", ["running", "renorm"])
def test_an_empty_batch_and_an_empty_mask_change_nothing(policy: str) -> None:
    layer = made("BatchNorm1d", policy)
    before = state(layer)
    layer(batch(0, 3, 7))
    assert float(layer(batch(4, 3, 7), mask=mask_of(0)).detach().abs().sum()) == 0
    assert state(layer) == before


@pytest.mark.parametrize("policy", ["running", "renorm"])
def test_torchs_words_for_what_does_not_fit(policy: str) -> None:
    layer = made("BatchNorm1d", policy)
    for shape in ((1, 4), (1, 2)):
        with pytest.raises(RuntimeError, match="running_mean should contain"):
            layer(batch(*shape))
