"""Activation checkpointing: one update of the running statistics per step, in PyTorch's own code, both modes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import normwise.torch as nt
from normwise.torch.steps.estimate_recomputation import recomputing
from tests.cases import running

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "activation": {"activation": "silu"},
    "momentum=None": {"momentum": None},
    "pooled": {"estimator": "pooled"},
    "debiased_ema": {"estimator": "debiased_ema"},
    "running": {"on_tiny_batch": "running"},
}
SHAPES = {"small": (4, 3, 5, 5), "large": (16, 3, 32, 32)}


def batch(kind: str = "small", seed: int = 0) -> Tensor:
    return torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(seed)) + 1


def statistics(module: nn.Module) -> dict[str, list[float]]:
    return {key: value.tolist() for key, value in module.state_dict().items() if "running" in key or "num" in key}


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_torchs_statistics_move_twice(use_reentrant: bool) -> None:
    layer = nn.BatchNorm2d(3)
    x = batch().requires_grad_()
    checkpoint(layer, x, use_reentrant=use_reentrant).sum().backward()
    assert int(layer.num_batches_tracked or 0) == 2


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_ours_move_once_and_the_gradients_are_the_same(name: str, kind: str, use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nt.BatchNorm2d(3, **SETTINGS[name]), nn.Conv2d(3, 3, 1))
    plain = copy.deepcopy(model)
    for step in range(3):
        grads = []
        for one, again in ((model, True), (plain, False)):
            x = batch(kind, step).requires_grad_()
            y = checkpoint(one, x, use_reentrant=use_reentrant) if again else one(x)
            y.pow(2).sum().backward()
            assert x.grad is not None
            grads.append([x.grad, *(parameter.grad for parameter in one.parameters())])
        for found, right in zip(*grads, strict=True):
            torch.testing.assert_close(found, right, rtol=0, atol=0)
        assert statistics(model) == statistics(plain)
    assert int(model[1].state_dict()["num_batches_tracked"]) == 3


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_with_a_mask(use_reentrant: bool) -> None:
    layer, plain = nt.BatchNorm2d(3), nt.BatchNorm2d(3)
    mask = torch.rand(4, 5, 5) < 0.7
    checkpoint(lambda x: layer(x, mask=mask), batch().requires_grad_(), use_reentrant=use_reentrant).sum().backward()
    plain(batch(), mask=mask)
    assert statistics(layer) == statistics(plain)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_segments_and_nested_checkpoints(use_reentrant: bool) -> None:
    layers = [nt.BatchNorm2d(3, activation="relu") for _ in range(4)]
    model = nn.Sequential(*layers)
    plain = copy.deepcopy(model)
    checkpoint_sequential(model, 2, batch().requires_grad_(), use_reentrant=use_reentrant).sum().backward()
    plain(batch())
    assert statistics(model) == statistics(plain)

    def inner(x: Tensor) -> Tensor:
        y = checkpoint(layers[0], x, use_reentrant=use_reentrant)
        return layers[1](y)  # type: ignore[no-any-return]  # a module's call is not typed

    before = int(layers[0].num_batches_tracked or 0)
    checkpoint(inner, batch().requires_grad_(), use_reentrant=use_reentrant).sum().backward()
    assert [int(layer.num_batches_tracked or 0) for layer in layers[:2]] == [before + 1] * 2


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_layer_that_is_used_twice_in_a_step_moves_twice(use_reentrant: bool) -> None:
    layer = nt.BatchNorm2d(3)
    x = batch().requires_grad_()
    checkpoint(lambda x: layer(layer(x)), x, use_reentrant=use_reentrant).sum().backward()
    assert int(layer.num_batches_tracked or 0) == 2


TINY: dict[str, Any] = {
    "plain": lambda: nt.BatchNorm2d(3, on_tiny_batch="renorm"),
    "pooled": lambda: nt.BatchNorm2d(3, on_tiny_batch="renorm", estimator="pooled"),
    "ghost": lambda: nt.GhostBatchNorm2d(3, virtual_batch_size=2, on_tiny_batch="renorm"),
    "renorm": lambda: nt.BatchRenorm2d(3, on_tiny_batch="renorm"),
}


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_batch_meets_the_statistics_of_the_first_time(name: str, masked: bool, use_reentrant: bool) -> None:
    """Its output depends on statistics that have moved when it is run again."""
    layer = TINY[name]().double()
    plain = copy.deepcopy(layer)
    mask = torch.tensor([[True, True], [False, True]]).expand(4, 2, 2) if masked else None

    def twice(layer: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = layer(layer(x, mask=mask).sin() + 1, mask=mask)
        return y

    for step in range(3):
        grads = []
        for one, again in ((layer, True), (plain, False)):
            x = (2 * batch(seed=step)[..., :2, :2].double() - 1).requires_grad_()
            y = checkpoint(twice, one, x, use_reentrant=use_reentrant) if again else twice(one, x)
            y.pow(3).sum().backward()
            grads.append(x.grad)
        torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
        assert statistics(layer) == statistics(plain)
    assert not copy.deepcopy(layer)._met._calls


def test_an_ordinary_forward_is_never_taken_for_one() -> None:
    assert not recomputing()
    layer = nt.BatchNorm2d(3)
    for step in range(3):
        x = batch(seed=step).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(x).pow(2).sum(), x, create_graph=True)
        gradient.pow(2).sum().backward()  # as a penalty on gradients does
        assert not recomputing()
    assert int(layer.num_batches_tracked or 0) == 3
    with torch.no_grad():
        layer(batch())
    assert int(layer.num_batches_tracked or 0) == 4


def test_a_forward_in_a_hook_of_the_backward_is_taken_for_one() -> None:
    layer = nt.BatchNorm2d(3)
    seen: list[bool] = []
    x = batch().requires_grad_()

    def look(_: Tensor) -> None:
        seen.append(recomputing())
        layer(batch())

    x.register_hook(look)
    before = [value.clone() for value in running(layer)]
    x.sum().backward()
    assert seen == [True]
    assert all(torch.equal(mine, right) for mine, right in zip(running(layer), before, strict=True))


def test_a_backward_that_failed_leaves_no_trace() -> None:
    def refuse(_: Tensor) -> None:
        raise RuntimeError("stop")

    x = batch().requires_grad_()
    x.register_hook(refuse)
    with pytest.raises(RuntimeError, match="stop"):
        x.sum().backward()
    layer = nt.BatchNorm2d(3)
    layer(batch())
    assert int(layer.num_batches_tracked or 0) == 1


def test_a_checkpoint_within_a_compiled_function_moves_the_statistics_once() -> None:
    torch.compiler.reset()
    layer, plain = nt.BatchNorm2d(3), nt.BatchNorm2d(3)

    @torch.compile(backend="aot_eager")
    def call(x: Tensor) -> Tensor:
        y: Tensor = checkpoint(layer, x, use_reentrant=False)
        return y.sin()

    call(batch().requires_grad_()).sum().backward()
    plain(batch())
    torch.testing.assert_close(statistics(layer), statistics(plain))
