"""A batch that is not finite never enters the running statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.estimators import estimator_class, names
from normwise.estimators.window import Window
from normwise.kernels import choose
from normwise.torch.functional import batch_norm
from tests.cases import running

SICK = [float("nan"), float("inf"), -float("inf")]
SHAPES = {"small": (4, 3, 5, 5), "large": (16, 3, 32, 32), "large, channels last": (16, 3, 32, 32)}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "activation": {"activation": "relu"},
    "momentum=None": {"momentum": None},
    **{name: {"estimator": name} for name in names() if name != "window"},
    "window": {"estimator": Window(start=0, stop=100)},
}


def batch(kind: str = "small", seed: int = 0, sick: float | None = None, channel: int = 1) -> Tensor:
    x = torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(seed))
    if sick is not None:
        x[0, channel, 0, 0] = sick
    return x.contiguous(memory_format=torch.channels_last) if "last" in kind else x


def skipped(layer: nn.Module) -> int:
    return int(dict(layer.named_buffers())["num_batches_skipped"])


def assert_same(found: tuple[Tensor, ...], right: tuple[Tensor, ...], channels: list[int]) -> None:
    for mine, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(mine[channels], theirs[channels])


@pytest.mark.parametrize("sick", SICK)
def test_one_such_batch_is_the_end_of_torchs_statistics(sick: float) -> None:
    layer = nn.BatchNorm2d(3)
    layer(batch(sick=sick))
    for seed in range(50):
        layer(batch(seed=seed))
    assert not bool(running(layer)[0].isfinite().all())
    assert not bool(layer.eval()(batch()).isfinite().all())


@pytest.mark.parametrize("sick", SICK)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_only_the_channels_that_are_finite_take_the_batch(name: str, kind: str, sick: float) -> None:
    layer, healthy = (nt.BatchNorm2d(3, **copy.deepcopy(SETTINGS[name])) for _ in range(2))
    for one in (layer, healthy):
        one(batch(kind, 1))
    before = tuple(value.clone() for value in running(layer))
    y = layer(batch(kind, 2, sick))
    healthy(batch(kind, 2))
    assert_same(running(layer), before, [1])
    assert_same(running(layer), running(healthy), [0, 2])
    assert not torch.equal(running(layer)[0][0], before[0][0])
    assert skipped(layer) == 1
    assert int(layer.num_batches_tracked or 0) == 2
    assert not bool(y[:, 1].isfinite().all())  # what is sick is not hidden in the output
    assert bool(y[:, [0, 2]].isfinite().all())
    layer(batch(kind, 3))
    assert skipped(layer) == 1
    assert all(bool(value.isfinite().all()) for value in running(layer))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_batch_that_is_sick_throughout_does_not_count_at_all(name: str) -> None:
    layer, never = (nt.BatchNorm2d(3, **copy.deepcopy(SETTINGS[name])) for _ in range(2))
    layer(torch.full((4, 3, 5, 5), float("nan")))
    assert {key: value.tolist() for key, value in layer.state_dict().items()} == {
        key: value.tolist() for key, value in never.state_dict().items()
    }
    assert skipped(layer) == 1
    layer(batch())
    never(batch())
    assert_same(running(layer), running(never), [0, 1, 2])


@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_variance_that_overflows_is_as_one_that_is_infinite(kind: str) -> None:
    layer = nt.BatchNorm2d(3)
    layer(batch(kind) * torch.tensor([1.0, 1e25, 1.0]).view(1, 3, 1, 1))
    mean, var = running(layer)
    assert (float(mean[1]), float(var[1])) == (0.0, 1.0)
    assert float(var[0]) != 1.0
    assert skipped(layer) == 1


def test_large_statistics_that_are_finite_are_no_reason_to_skip() -> None:
    layer = nt.BatchNorm2d(3)
    for seed in range(3):
        layer(batch(seed=seed) * 1e18)  # the sum over the channels overflows float32 in no step, their product does
    assert skipped(layer) == 0
    assert float(running(layer)[1].min()) > 1e34


@pytest.mark.parametrize("name", ["plain", "momentum=None", "debiased_ema", "pooled"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_in_one_graph(backend: str, name: str) -> None:
    torch.compiler.reset()
    layer, plain = (nt.BatchNorm2d(3, **SETTINGS[name]) for _ in range(2))
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for seed, sick in ((0, None), (1, float("nan")), (2, None)):
        compiled(batch(seed=seed, sick=sick))
        plain(batch(seed=seed, sick=sick))
    assert skipped(layer) == skipped(plain) == 1
    assert_same(running(layer), running(plain), [0, 1, 2])
    assert int(layer.num_batches_tracked or 0) == int(plain.num_batches_tracked or 0) == 3


@pytest.mark.parametrize("kernel", ["aten", "two_pass", "cpu"])
def test_every_kernel(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "cpu" and not choose.built():
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(choose, "_ASKED", kernel)
    layer = nt.BatchNorm2d(3)
    layer(batch(sick=float("inf")))
    assert float(running(layer)[0][1]) == 0.0
    assert skipped(layer) == 1


def test_the_function_guards_the_statistics_that_it_is_given() -> None:
    mean, var = torch.zeros(3), torch.ones(3)
    batch_norm(batch(sick=float("nan")), mean, var, training=True)
    assert (float(mean[1]), float(var[1])) == (0.0, 1.0)
    assert float(mean[0]) != 0.0


def test_with_a_mask_that_hides_it_the_batch_is_a_healthy_one() -> None:
    layer = nt.BatchNorm2d(3)
    mask = torch.ones(4, 5, 5, dtype=torch.bool)
    mask[0, 0, 0] = False
    layer(batch(sick=float("nan")), mask=mask)
    assert skipped(layer) == 0
    assert float(running(layer)[0][1]) != 0.0


def test_the_counter_is_no_part_of_checkpoints_and_is_reset() -> None:
    layer, plain = nt.BatchNorm2d(3), nn.BatchNorm2d(3)
    layer(batch(sick=float("nan")))
    assert [*layer.state_dict()] == [*plain.state_dict()]
    plain.load_state_dict(layer.state_dict(), strict=True)
    layer.load_state_dict(plain.state_dict(), strict=True)
    assert skipped(layer) == 1
    assert skipped(copy.deepcopy(layer)) == 1
    layer.reset_running_stats()
    assert skipped(layer) == 0
    assert nt.BatchNorm2d(3, track_running_stats=False).num_batches_skipped is None


def test_gradients_of_an_earlier_forward_are_not_disturbed() -> None:
    layer, plain = nt.BatchNorm2d(3), nn.BatchNorm2d(3)
    grads = []
    for one in (layer, plain):
        x = batch().requires_grad_()
        y = one(x)
        one(batch(sick=float("nan")))
        y.pow(3).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_an_estimator_is_found_for_every_name() -> None:
    assert {*names()} <= {*SETTINGS}
    assert all(estimator_class(name) for name in names())


def test_channels_that_were_sick_when_loaded_are_counted_with_every_batch() -> None:
    layer = nt.BatchNorm2d(3)
    running(layer)[0][1] = float("nan")
    layer(batch())
    assert skipped(layer) == 1
    assert float(running(layer)[0][0]) != 0.0
