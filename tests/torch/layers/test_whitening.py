"""Whitening layers agree with the formulas, make the covariance the identity, and keep one that holds for all data."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.kernels import reference_whitening
from normwise.kernels.reference_whitening import Function, newton, zca
from tests.cases import LAYOUTS, array, gradients

F64 = torch.float64
KINDS: dict[str, tuple[str, Function, dict[str, Any]]] = {
    "decorrelated": ("DecorrelatedBatchNorm", zca, {}),
    "iterative": ("IterativeNorm", newton(5), {}),
    "iterative, 2 steps": ("IterativeNorm", newton(2), {"steps": 2}),
}
SHAPES = [(12, 6), (4, 6, 5), (3, 6, 2, 4), (2, 6, 3, 2, 2)]


def made(kind: str, shape: tuple[int, ...], dtype: torch.dtype = F64, **settings: Any) -> Any:
    name, _, more = KINDS[kind]
    axes = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}[len(shape)]
    layer = getattr(nt, f"{name}{axes}")(shape[1], dtype=dtype, **{"group_size": 3, **more, **settings})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=draw))
    return layer


def mixed(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Values whose channels have much to do with each other, far from zero."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn((shape[1], shape[1]), generator=torch.Generator().manual_seed(9), dtype=F64)
    x = torch.randn(shape, generator=draw, dtype=F64)
    found: Tensor = torch.tensordot(x, mixing, dims=([1], [0])).movedim(-1, 1) + 2
    return found


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def covariance(y: Tensor, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return reference_whitening.moments(array(y), size)[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_backward_and_inference_are_the_references(kind: str, shape: tuple[int, ...], layout: str) -> None:
    layer, function = made(kind, shape, eps=1e-3), KINDS[kind][1]
    x, dy = LAYOUTS[layout](mixed(shape)).requires_grad_(), normal(shape, 2)
    y = layer(x)
    y.backward(dy)
    law = (array(layer.weight), array(layer.bias), 3, 1e-3, function)
    np.testing.assert_allclose(array(y), reference_whitening.forward(array(x), *law), rtol=1e-9, atol=1e-10)
    right = reference_whitening.backward(array(dy), array(x), law[0], *law[2:])
    for mine, theirs in zip(gradients(x, layer.weight, layer.bias), right, strict=True):
        np.testing.assert_allclose(array(mine), theirs, rtol=1e-7, atol=1e-9)
    other = mixed(shape, 3)
    found = layer.eval()(other)
    fixed = reference_whitening.forward_fixed(
        array(other), array(layer.running_mean), array(layer.running_covariance), *law
    )
    np.testing.assert_allclose(array(found), fixed, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", [(64, 6), (16, 6, 4, 4)], ids=str)
@pytest.mark.parametrize(("kind", "settings"), [("decorrelated", {}), ("iterative", {"steps": 30})])
def test_the_covariance_of_the_output_is_the_identity(
    kind: str, settings: dict[str, Any], shape: tuple[int, ...]
) -> None:
    y = made(kind, shape, eps=1e-12, affine=False, **settings)(mixed(shape))
    found = covariance(y, 3)
    np.testing.assert_allclose(found, np.broadcast_to(np.eye(3), found.shape), atol=1e-8)
    np.testing.assert_allclose(array(y).mean(tuple(axis for axis in range(y.dim()) if axis != 1)), 0, atol=1e-12)


def test_batch_norm_leaves_the_correlations_that_whitening_takes_away() -> None:
    x = mixed((64, 6))
    largest = np.abs(covariance(nt.BatchNorm1d(6, dtype=F64, affine=False)(x), 3) - np.eye(3)).max()
    assert largest > 0.5


@pytest.mark.parametrize(("share", "left"), [(0.01, 0.66), (0.001, 0.24)])
def test_five_steps_leave_weak_directions_as_the_docstring_says(share: float, left: float) -> None:
    # One direction of that share of the variance and two that share the rest, all exactly uncorrelated.
    x = torch.linalg.qr(normal((500, 3), 0) - normal((500, 3), 0).mean(0)).Q
    x = (x - x.mean(0)) * torch.tensor([share, (1 - share) / 2, (1 - share) / 2], dtype=F64).mul(500).sqrt()
    y = nt.IterativeNorm1d(3, dtype=F64, affine=False, eps=1e-12)(x)
    spread = y.std(0, correction=0)
    assert float(spread[0]) == pytest.approx(left, abs=0.005)
    torch.testing.assert_close(spread[1:], torch.ones(2, dtype=F64), rtol=0, atol=1e-6)


def test_the_error_of_five_steps_falls_with_every_further_one() -> None:
    x = mixed((256, 6))
    errors = []
    for steps in (1, 3, 5, 7, 9, 12, 30):
        y = nt.IterativeNorm1d(6, dtype=F64, affine=False, eps=1e-12, steps=steps)(x)
        errors.append(float(np.abs(covariance(y, 6) - np.eye(6)).max()))
    # Until only eps is left, which makes the last of them the same but for rounding.
    falling, left = errors[:5], errors[5:]
    assert falling == sorted(falling, reverse=True)
    assert falling[2] > 1e-3 > 1e-7 > falling[-1] > 1e-11 > max(left)


@pytest.mark.parametrize("kind", ["decorrelated", "iterative"])
def test_groups_of_one_channel_are_batch_norm(kind: str) -> None:
    # One channel is its whole trace: the iteration starts where it ends.
    x = mixed((8, 6, 5))
    layer, right = made(kind, x.shape, group_size=1), nt.BatchNorm1d(6, dtype=F64)
    right.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x), right(x))
    assert layer.running_mean is not None
    torch.testing.assert_close(layer.running_covariance.flatten(), right.running_var)
    torch.testing.assert_close(layer.eval()(x), right.eval()(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7, 6), (3, 6, 4)], ids=str)
def test_first_and_second_derivatives_by_finite_differences(kind: str, shape: tuple[int, ...]) -> None:
    layer = made(kind, shape, eps=0.1, activation="tanh", track_running_stats=False)
    inputs = [mixed(shape).requires_grad_(), normal(shape, 2).requires_grad_()]
    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs, fast_mode=True)


def test_equal_eigenvalues_have_a_gradient_where_torchs_eigenvectors_have_none() -> None:
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64, requires_grad=True)
    dy = normal((4, 2), 3)
    nt.DecorrelatedBatchNorm1d(2, dtype=F64)(x).backward(dy)
    right = reference_whitening.backward(array(dy), array(x), np.ones(2), 2, 1e-5, zca).x
    np.testing.assert_allclose(array(gradients(x)[0]), right, atol=1e-10)
    values, vectors = torch.linalg.eigh(x.detach().T @ x / 4)
    y = x @ (vectors * values.rsqrt()) @ vectors.T
    assert not bool(torch.autograd.grad(y, x, dy)[0].isfinite().all())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_weights(kind: str, weighted: bool) -> None:
    shape = (4, 6, 7)
    layer, function = made(kind, shape, eps=1e-3), KINDS[kind][1]
    mask = torch.arange(7) < torch.tensor([[7], [4], [2], [0]])
    weights = mask * torch.rand((4, 7), generator=torch.Generator().manual_seed(5)) * 9 if weighted else mask
    x = mixed(shape).masked_fill(~mask.unsqueeze(1), float("nan")).requires_grad_()
    y = layer(x, mask=mask, sample_weight=weights.double() if weighted else None)
    dy = normal(shape, 2)
    y.backward(dy)
    seen = np.nan_to_num(array(x))
    wide = array(weights.unsqueeze(1))
    law = (3, 1e-3, function)
    right = reference_whitening.forward(seen, array(layer.weight), array(layer.bias), *law, weights=wide)
    np.testing.assert_allclose(array(y), right, rtol=1e-8, atol=1e-10)
    wanted = reference_whitening.backward(array(dy), seen, array(layer.weight), *law, weights=wide)
    np.testing.assert_allclose(array(gradients(x)[0]), wanted.x, rtol=1e-7, atol=1e-9)
    assert float(layer.eval()(x.detach(), mask=mask).detach()[3].abs().sum()) == 0


def test_a_masked_batch_is_the_batch_of_what_is_there() -> None:
    shape = (4, 6, 7)
    masked, alone = (made("decorrelated", shape, estimator="pooled") for _ in range(2))
    mask = torch.arange(7) < torch.tensor([[7], [4], [2], [1]])
    x = mixed(shape)
    there = x.movedim(1, -1)[mask]
    torch.testing.assert_close(masked(x, mask=mask).movedim(1, -1)[mask], alone(there))
    torch.testing.assert_close(masked.state_dict(), alone.state_dict())


def test_activation_and_residual_come_after() -> None:
    shape = (12, 6)
    plain, fused = made("decorrelated", shape), made("decorrelated", shape, activation="relu")
    x, residual = mixed(shape), normal(shape, 4)
    torch.testing.assert_close(fused(x, residual), (plain(x) + residual).relu())
    torch.testing.assert_close(fused.eval()(x, residual), (plain.eval()(x) + residual).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("kind", ["decorrelated", "iterative"])
def test_lower_precision(kind: str, layout: str, dtype: torch.dtype) -> None:
    shape = (8, 6, 5, 5)
    x = LAYOUTS[layout](mixed(shape).to(dtype))
    layer = made(kind, shape, torch.float32, eps=1e-2)
    right = reference_whitening.forward(array(x), array(layer.weight), array(layer.bias), 3, 1e-2, KINDS[kind][1])
    y = layer(x)
    assert y.dtype is dtype
    assert y.is_contiguous(memory_format=torch.channels_last if layout == "channels last" else torch.contiguous_format)
    tolerance = 4 * float(torch.finfo(dtype).eps) * np.abs(right).max()
    np.testing.assert_allclose(array(y), right, rtol=0, atol=tolerance + 1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), y)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = (mixed((16, 6, 8, 8)) * 1.0 + 1e4).float()
    right = reference_whitening.forward(array(x), np.ones(6), np.zeros(6), 3, 1e-5, zca)
    np.testing.assert_allclose(array(nt.DecorrelatedBatchNorm2d(6, group_size=3)(x)), right, atol=1e-3)


@pytest.mark.parametrize("kind", ["decorrelated", "iterative"])
def test_compiled_as_one_graph(kind: str) -> None:
    shape = (8, 6, 5)
    eager, other = (made(kind, shape, torch.float32, activation="relu") for _ in range(2))
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    inputs = [mixed(shape).float().requires_grad_() for _ in range(2)]
    for call, x in zip((eager, compiled), inputs, strict=True):
        call(x).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(eager.state_dict(), other.state_dict())
    other.eval()
    torch.testing.assert_close(compiled(inputs[0]), eager.eval()(inputs[0]))
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["decorrelated", "iterative"])
def test_functions_are_transformed(kind: str) -> None:
    layer = made(kind, (5, 6), track_running_stats=False)
    xs = torch.stack([mixed((5, 6), seed) for seed in range(3)])
    torch.testing.assert_close(torch.func.vmap(layer)(xs), torch.stack([layer(x) for x in xs]))
    found = torch.func.jacrev(lambda x: layer(x).sum(0))(xs[0])
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(lambda x: layer(x).sum(0), xs[0]))


@pytest.mark.parametrize("kind", ["decorrelated", "iterative"])
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_copies_and_checkpoints(kind: str, how: Callable[[nn.Module], nn.Module]) -> None:
    shape = (12, 6)
    layer = made(kind, shape, estimator="pooled", activation="relu")
    layer(mixed(shape))
    twin = how(layer)
    assert repr(twin) == repr(layer)
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    saved.seek(0)
    fresh = made(kind, shape, estimator="pooled", activation="relu")
    fresh.load_state_dict(torch.load(saved, weights_only=True))
    expected = layer.eval()(mixed(shape))
    for other in (twin, fresh):
        assert torch.equal(other.eval()(mixed(shape)), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_forward_enters_once(reentrant: bool) -> None:
    once, again = (made("decorrelated", (12, 6)) for _ in range(2))
    x = mixed((12, 6)).requires_grad_()
    once(x).sum().backward()
    checkpoint(again, x, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close(again.state_dict(), once.state_dict(), rtol=0, atol=0)
