"""Virtual batches: each is normalized for itself, and together they move the running statistics once."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.estimators import RunningStatistics, estimator_class, names
from normwise.kernels import reference, reference_ghost
from normwise.torch.steps.checks_mask import check_weights
from tests.cases import LAYOUTS, array, gradients, running

F64 = torch.float64
KINDS = {2: nt.GhostBatchNorm1d, 3: nt.GhostBatchNorm1d, 4: nt.GhostBatchNorm2d, 5: nt.GhostBatchNorm3d}
# Samples, samples in a virtual batch, and what becomes of them.
DIVISIONS: dict[str, tuple[int, int, list[int]]] = {
    "even": (12, 4, [4, 4, 4]),
    "a ragged one of its own": (11, 4, [4, 4, 3]),
    "a ragged one that is too small": (10, 4, [4, 6]),
    "one sample too many": (5, 4, [5]),
    "fewer than one": (3, 4, [3]),
    "one and a ragged one": (7, 4, [4, 3]),
}
SPATIAL = [(), (5,), (3, 2), (2, 1, 3)]


def parts(sizes: list[int], order: str) -> list[list[int]]:
    """The samples of each virtual batch, worked out by hand: one after the other, or dealt out among equal ones."""
    whole = sum(sizes)
    starts = np.cumsum([0, *sizes])
    consecutive = [list(range(a, b)) for a, b in itertools.pairwise(starts)]
    if order == "consecutive":
        return consecutive
    equal = [size for size in sizes if size == sizes[0]]
    dealt = [list(range(k, sum(equal), len(equal))) for k in range(len(equal))]
    return [*dealt, *([list(range(sum(equal), whole))] if sum(equal) < whole else [])]


def inputs(samples: int, spatial: tuple[int, ...], dtype: torch.dtype = F64, channels: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shape = (samples, channels, *spatial)
    return [torch.randn(shape, generator=draw, dtype=F64).to(dtype) * 2 + 1 for _ in range(3)]


def made(spatial: tuple[int, ...], dtype: torch.dtype = F64, channels: int = 3, **settings: Any) -> Any:
    layer = KINDS[2 + len(spatial)](channels, dtype=dtype, **settings)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(1 + 0.3 * torch.randn(channels, generator=draw))
    return layer


@pytest.mark.parametrize("mask", [None, "shared", "per channel", "weights"])
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("order", ["consecutive", "interleaved"])
@pytest.mark.parametrize("division", DIVISIONS)
def test_forward_backward_and_statistics_are_the_references(
    division: str, order: str, spatial: tuple[int, ...], mask: str | None
) -> None:
    samples, size, sizes = DIVISIONS[division]
    x, residual, dy = inputs(samples, spatial)
    draw = torch.Generator().manual_seed(3)
    given: dict[str, Tensor] = {}
    if mask in ("shared", "per channel"):
        kept = torch.rand((samples, 1 if mask == "shared" else 3, *spatial), generator=draw) < 0.9
        given["mask"] = kept if spatial else torch.ones_like(kept)
    elif mask:
        given["sample_weight"] = torch.rand((samples, 1, *spatial), generator=draw, dtype=F64) + 0.5
    layer = made(spatial, virtual_batch_size=size, order=order, activation="silu")
    x.requires_grad_()
    residual.requires_grad_()
    y = layer(x, residual, **given)
    y.backward(dy)
    weights = check_weights(given.get("mask"), given.get("sample_weight"), x)
    options: dict[str, Any] = {"weights": None if weights is None else weights.double().numpy()}
    law = (array(x), parts(sizes, order), array(layer.weight), array(layer.bias), layer.eps)
    options |= {"activation": "silu", "residual": array(residual)}
    right, batch = reference_ghost.forward_batch(*law, **options)
    np.testing.assert_allclose(array(y), right, rtol=1e-10, atol=1e-10)
    wanted = reference_ghost.backward_batch(array(dy), *law, **options)
    found = gradients(x, layer.weight, layer.bias, residual)
    for mine, theirs in zip(found, wanted, strict=True):
        assert theirs is not None
        np.testing.assert_allclose(array(mine), theirs, rtol=1e-9, atol=1e-9)
    mean, var = running(layer)
    np.testing.assert_allclose(array(mean), 0.1 * batch.mean, rtol=1e-12)
    np.testing.assert_allclose(array(var), 0.9 + 0.1 * batch.unbiased_var(), rtol=1e-12)
    assert int(layer.num_batches_tracked) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["consecutive", "interleaved", "shuffled"])
@pytest.mark.parametrize(
    ("samples", "size"), [(20, 8), (16, 8), (19, 8)], ids=["a rest", "no rest", "a rest that joins"]
)
def test_large_virtual_batches_in_every_layout(samples: int, size: int, order: str, layout: str) -> None:
    # 8 * 64 * 8 * 8 values are as many as the kernels for large tensors begin with
    spatial, channels = (8, 8), 64
    x, residual, dy = inputs(samples, spatial, torch.float32, channels)
    x, residual = (LAYOUTS[layout](tensor).requires_grad_() for tensor in (x, residual))
    layer = made(spatial, torch.float32, channels, virtual_batch_size=size, order=order, activation="relu")
    torch.manual_seed(7)
    y = layer(x, residual)
    y.backward(dy)
    assert y.is_contiguous(memory_format=torch.channels_last) is (layout == "channels last")
    torch.manual_seed(7)
    sizes = {20: [8, 8, 4], 16: [8, 8], 19: [8, 11]}[samples]
    if samples == 20:
        sizes = [8, 12]  # 4 are not more than half of 8
    groups = parts(sizes, "consecutive" if order == "consecutive" else "interleaved")
    if order == "shuffled":
        drawn = torch.randperm(samples).tolist()
        groups = [[drawn[place] for place in group] for group in groups]
    law = (array(x), groups, array(layer.weight), array(layer.bias), layer.eps)
    options: dict[str, Any] = {"activation": "relu", "residual": array(residual)}
    right, batch = reference_ghost.forward_batch(*law, **options)
    np.testing.assert_allclose(array(y), right, rtol=1e-4, atol=1e-5)
    near = np.abs(right) < 1e-4  # the slope of a relu hangs on the last digit there
    wanted = reference_ghost.backward_batch(array(dy), *law, **options)
    found = gradients(x, residual)
    for mine, theirs in zip(found, (wanted.x, wanted.residual), strict=True):
        assert theirs is not None
        apart = np.abs(array(mine) - theirs) * ~(near & (right == 0))
        assert np.quantile(apart, 0.999) < 1e-4
    mean, var = running(layer)
    np.testing.assert_allclose(array(mean), 0.1 * batch.mean, rtol=1e-4)
    np.testing.assert_allclose(array(var), 0.9 + 0.1 * batch.unbiased_var(), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", ["consecutive", "interleaved"])
def test_half_precision(order: str, dtype: torch.dtype) -> None:
    x, residual, _ = inputs(10, (4,), dtype)
    layer = made((4,), virtual_batch_size=4, order=order).to(dtype)
    y = layer(x, residual)
    assert y.dtype is dtype
    law = (array(x), parts([4, 6], order), array(layer.weight), array(layer.bias), layer.eps)
    right, _ = reference_ghost.forward_batch(*law, residual=array(residual))
    np.testing.assert_allclose(array(y), right, atol=8 * float(torch.finfo(dtype).eps) * np.abs(right).max())
    assert running(layer)[0].dtype is torch.float32


@pytest.mark.parametrize("order", ["consecutive", "interleaved", "shuffled"])
def test_first_and_second_derivatives(order: str) -> None:
    layer = made((2,), virtual_batch_size=3, order=order, activation="tanh")
    x = inputs(8, (2,))[0].requires_grad_()

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(0)
        y: Tensor = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        return y

    assert torch.autograd.gradcheck(call, (x, layer.weight, layer.bias))
    assert torch.autograd.gradgradcheck(call, (x, layer.weight, layer.bias))


def test_the_number_of_virtual_batches_may_be_given_instead() -> None:
    x = inputs(11, ())[0]
    by_number, by_size = made((), num_splits=3), made((), virtual_batch_size=4)
    torch.testing.assert_close(by_number(x), by_size(x))
    assert not torch.equal(by_number(x), made((), virtual_batch_size=11)(x))


def test_one_virtual_batch_is_plain_batch_norm() -> None:
    x = inputs(8, (3,))[0]
    plain = nt.BatchNorm1d(3, dtype=F64)
    layer = nt.GhostBatchNorm1d(3, dtype=F64, virtual_batch_size=8)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(running(layer)[1], running(plain)[1])


@pytest.mark.parametrize("samples", [1, 3, 4, 9])
def test_inference_is_plain_batch_norm_for_any_number_of_samples(samples: int) -> None:
    layer = made((), virtual_batch_size=4)
    layer(inputs(8, ())[0])
    plain = nn.BatchNorm1d(3, dtype=F64)
    plain.load_state_dict(layer.state_dict())
    x = inputs(samples, ())[0]
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))


def test_the_smallest_may_be_stated() -> None:
    x = inputs(9, (2,))[0]
    alone, joined = (made((2,), virtual_batch_size=4, smallest=smallest) for smallest in (1, 2))
    law = (array(x), parts([4, 4, 1], "consecutive"), array(alone.weight), array(alone.bias), alone.eps)
    np.testing.assert_allclose(array(alone(x)), reference_ghost.forward_batch(*law)[0])
    assert not torch.allclose(alone(x), joined(x))


@pytest.mark.parametrize("name", [name for name in names() if name != "window"])
def test_every_estimator_gets_one_batch_with_the_total_variance(name: str) -> None:
    layer = made((), virtual_batch_size=4, estimator=name)
    cls: Any = estimator_class(name)
    estimator = cls(0.1) if name in ("ema", "debiased_ema") else cls()
    statistics = RunningStatistics.start(3)
    draw = torch.Generator().manual_seed(0)
    for step in range(3):
        x = torch.randn(10, 3, generator=draw, dtype=F64) + step
        layer(x)
        statistics = estimator.update(statistics, reference.moments(array(x)))
    mean, var = running(layer)
    np.testing.assert_allclose(array(mean), statistics.mean, rtol=1e-12)
    np.testing.assert_allclose(array(var), statistics.var, rtol=1e-12)
    if layer.running_count is not None:
        assert int(layer.running_count) == 30


@pytest.mark.parametrize("samples", [10, 8, 3])
def test_counts_behind_masks_are_those_of_the_values_that_count(samples: int) -> None:
    """With a virtual batch that is left over, without one, and with one alone."""
    layer = made((5,), virtual_batch_size=4, estimator="pooled")
    x = inputs(samples, (5,))[0]
    mask = torch.rand(samples, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    layer(x, mask=mask)
    assert int(layer.running_count) == int(mask.sum())
    per_channel = torch.rand(samples, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    layer(x, mask=per_channel)
    assert layer.running_count.tolist() == (per_channel.sum((0, 2)) + mask.sum()).tolist()


@pytest.mark.parametrize("samples", [10, 8, 3])
def test_counts_of_weights_are_their_sum(samples: int) -> None:
    layer = made((5,), virtual_batch_size=4, estimator="pooled")
    weights = torch.rand(samples, generator=torch.Generator().manual_seed(0), dtype=F64)
    layer(inputs(samples, (5,))[0], sample_weight=weights)
    torch.testing.assert_close(layer.running_count, weights.sum() * 5)


def test_a_virtual_batch_that_is_masked_altogether_has_no_part_in_the_statistics() -> None:
    layer, without = (made((5,), virtual_batch_size=4) for _ in range(2))
    x = inputs(12, (5,))[0]
    mask = torch.ones(12, 5, dtype=torch.bool)
    mask[4:8] = False
    y = layer(torch.where(mask[:, None], x, float("nan")), mask=mask)
    kept = torch.cat((x[:4], x[8:]))
    torch.testing.assert_close(torch.cat((y[:4], y[8:])), without(kept))
    assert float(y[4:8].detach().abs().max()) == 0.0
    for mine, theirs in zip(running(layer), running(without), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_sick_virtual_batch_keeps_the_channel_out_of_the_statistics() -> None:
    layer = made((), virtual_batch_size=4)
    x = inputs(12, ())[0]
    x[5, 1] = float("inf")
    y = layer(x)
    assert bool(y[:4].isfinite().all())
    assert running(layer)[0][1] == 0.0
    assert running(layer)[0][0] != 0.0
    assert int(layer.num_batches_skipped) == 1


@pytest.mark.parametrize("policy", ["running", "renorm"])
def test_virtual_batches_of_one_value_have_an_answer(policy: str) -> None:
    layer = made((), virtual_batch_size=1, on_tiny_batch=policy)
    x = inputs(4, ())[0]
    # with the running statistics at 0 and 1, both are what inference would give, within the bounds of renorm
    right = copy.deepcopy(layer).eval()(x * 0.5)
    torch.testing.assert_close(layer(x * 0.5), right)
    moved = running(layer)[0] != 0
    assert bool(moved.any()) is (policy == "renorm")


def test_an_empty_batch() -> None:
    layer = made((), virtual_batch_size=4)
    assert layer(torch.zeros(0, 3, dtype=F64)).shape == (0, 3)
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("order", ["consecutive", "interleaved", "shuffled"])
@pytest.mark.parametrize("samples", [12, 11])
def test_compiled_without_a_break(samples: int, order: str) -> None:
    torch._dynamo.reset()
    layer = made((2,), torch.float32, virtual_batch_size=4, order=order, activation="relu")
    compiled: Any = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    x = inputs(samples, (2,), torch.float32)[0]
    torch.manual_seed(0)
    right = layer(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(x), right)
    torch.testing.assert_close(running(compiled), running(layer))


def test_jacobians_of_virtual_batches_by_torch_func() -> None:
    layer = made((), virtual_batch_size=2, track_running_stats=False)
    jacobian = torch.func.jacrev(layer)(inputs(4, ())[0])
    assert float(jacobian[:2, :, 2:].detach().abs().max()) == 0.0
    assert float(jacobian[:2, :, :2].detach().abs().max()) > 0.0


def test_checkpoints_copies_and_pickles() -> None:
    layer = made((), virtual_batch_size=4, order="interleaved", smallest=2)
    x = inputs(9, ())[0]
    layer(x)
    nn.BatchNorm1d(3, dtype=F64).load_state_dict(layer.state_dict())
    with io.BytesIO() as file:
        torch.save(layer, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
    for again in (copy.deepcopy(layer), loaded):
        assert torch.equal(again(x), layer(x))
        assert repr(again) == repr(layer)
    assert repr(layer).endswith("virtual_batch_size=4, smallest=2, order=interleaved)")


def test_autocast() -> None:
    layer = made((), torch.float32, virtual_batch_size=4)
    x = inputs(10, (), torch.bfloat16)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16


def test_a_layer_in_a_checkpoint_moves_its_statistics_once() -> None:
    layer = made((), virtual_batch_size=4, order="shuffled")
    x = inputs(10, ())[0].requires_grad_()
    plain = copy.deepcopy(layer)
    torch.manual_seed(0)
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    (found,) = torch.autograd.grad(y.pow(3).sum(), x)
    torch.manual_seed(0)
    (right,) = torch.autograd.grad(plain(x).pow(3).sum(), x)
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(running(layer), running(plain))
    assert int(layer.num_batches_tracked) == 1


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {},
        ValueError,
        "virtual_batch_size or num_splits must be given, and not both, received virtual_batch_size=None, "
        "num_splits=None: pass for example virtual_batch_size=128.",
    ),
    (
        {"virtual_batch_size": 4, "num_splits": 2},
        ValueError,
        "virtual_batch_size or num_splits must be given, and not both, received virtual_batch_size=4, num_splits=2: "
        "pass for example virtual_batch_size=128.",
    ),
    ({"num_splits": 0}, ValueError, "num_splits must be 1 or more, received 0: pass for example 32."),
    (
        {"virtual_batch_size": 2.0},
        TypeError,
        "virtual_batch_size must be a whole number, received float: pass for example 32.",
    ),
    (
        {"virtual_batch_size": 2, "order": "interleave"},
        ValueError,
        "unknown order 'interleave': did you mean 'interleaved'? Known: consecutive, interleaved, shuffled.",
    ),
]


@pytest.mark.parametrize(("settings", "error", "message"), WRONG, ids=str)
def test_wrong_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        nt.GhostBatchNorm1d(3, **settings)
    assert str(caught.value) == message


def test_virtual_batches_of_one_value_are_refused_before_anything_is_changed() -> None:
    layer = made((), virtual_batch_size=4, smallest=1)
    with pytest.raises(ValueError, match="Expected more than 1 value") as caught:
        layer(torch.zeros(9, 3, dtype=F64))
    assert str(caught.value) == (
        "Expected more than 1 value per channel when training, got virtual batches of 1 in input size "
        "torch.Size([9, 3]): make them larger, or choose on_tiny_batch='running'."
    )
    assert int(layer.num_batches_tracked) == 0
