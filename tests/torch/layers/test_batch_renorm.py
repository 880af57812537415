"""Batch renormalization agrees with the paper's formulas, its schedule runs, and its clipping is told."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normwise.torch as nt
from normwise.kernels import reference, reference_renorm
from normwise.kernels.reference_renorm import Statistics
from normwise.torch.layers.batch_renorm import ClippingRate
from tests.cases import LAYOUTS, array, gradients, running

F64 = torch.float64
KINDS = {2: nt.BatchRenorm1d, 3: nt.BatchRenorm1d, 4: nt.BatchRenorm2d, 5: nt.BatchRenorm3d}
AT_ONCE = nt.RenormSchedule(warm_up=0, r_full=0, d_full=0)
TIGHT = nt.RenormSchedule(warm_up=0, r_full=0, d_full=0, r_max=1.1, d_max=0.2)
SCHEDULES = {"the paper's, warming up": nt.RenormSchedule(), "at once": AT_ONCE, "tight": TIGHT}
SHAPES = [(6, 3), (4, 3, 5), (4, 3, 2, 3), (2, 3, 2, 2, 2), (16, 64, 8, 8)]


def made(shape: tuple[int, ...], dtype: torch.dtype = F64, **settings: Any) -> Any:
    """A layer in the middle of training."""
    channels = shape[1]
    layer: Any = KINDS[len(shape)](channels, dtype=dtype, **settings)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(1 + 0.3 * torch.randn(channels, generator=draw))
        layer.running_mean.copy_(0.5 + 0.3 * torch.randn(channels, generator=draw))
        layer.running_var.copy_(1 + torch.rand(channels, generator=draw))
    return layer


def inputs(shape: tuple[int, ...], dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=draw, dtype=F64).to(dtype) for _ in range(2))
    return 1.7 * x + 1, dy


def statistics(layer: nn.Module, eps: float = 1e-5) -> Statistics:
    mean, var = running(layer)
    return Statistics(array(mean).copy(), np.sqrt(array(var) + eps))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_forward_backward_and_statistics_are_the_papers(name: str, shape: tuple[int, ...], layout: str) -> None:
    schedule = SCHEDULES[name]
    layer = made(shape, schedule=schedule)
    r_max, d_max = {"at once": (3.0, 5.0), "tight": (1.1, 0.2)}.get(name, (1.0, 0.0))
    before = statistics(layer)
    mean, var = (array(value).copy() for value in running(layer))
    x, dy = inputs(shape)
    x = LAYOUTS[layout](x).requires_grad_()
    y = layer(x)
    y.backward(dy)
    law = (array(x), array(layer.weight), array(layer.bias), before, r_max, d_max, layer.eps)
    right = reference_renorm.forward(*law)
    np.testing.assert_allclose(array(y), right.y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(array(layer.r), right.r)
    np.testing.assert_allclose(array(layer.d), right.d, atol=1e-12)
    wanted = reference_renorm.backward(array(dy), law[0], law[1], before, r_max, d_max, layer.eps)
    for mine, theirs in zip(gradients(x, layer.weight, layer.bias), wanted, strict=True):
        np.testing.assert_allclose(array(mine), theirs, rtol=1e-8, atol=1e-9)
    batch = reference.moments(array(x))
    after = running(layer)
    np.testing.assert_allclose(array(after[0]), 0.99 * mean + 0.01 * batch.mean)  # moved after use
    np.testing.assert_allclose(array(after[1]), 0.99 * var + 0.01 * batch.unbiased_var())
    assert int(layer.num_batches_tracked) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(dtype: torch.dtype) -> None:
    shape = (8, 3, 5)
    layer = made(shape, torch.float32, schedule=AT_ONCE)
    before = statistics(layer)
    x, _ = inputs(shape, dtype)
    y = layer.to(dtype)(x)
    assert y.dtype is dtype
    assert layer.r.dtype is torch.float32
    right = reference_renorm.forward(array(x), array(layer.weight), array(layer.bias), before, 3.0, 5.0, 1e-5).y
    np.testing.assert_allclose(array(y), right, atol=8 * float(torch.finfo(dtype).eps) * np.abs(right).max())


@pytest.mark.parametrize("name", SCHEDULES)
def test_first_and_second_derivatives_hold_r_and_d(name: str) -> None:
    # r and d are constants: with statistics that are exactly the batch's, they would be 1 and 0 and move with it.
    layer = made((5, 3), schedule=SCHEDULES[name], activation="tanh")
    x, _ = inputs((5, 3))
    layer(x)
    r, d = layer.r.clone(), layer.d.clone()

    def held(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        plain = torch.nn.functional.batch_norm(x, None, None, None, None, True, 0.1, layer.eps)
        y: Tensor = ((plain * r + d) * weight + bias).tanh()
        return y

    layer = made((5, 3), schedule=SCHEDULES[name], activation="tanh")
    at = [tensor.detach().clone().requires_grad_() for tensor in (x, layer.weight, layer.bias)]

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        return y

    results = []
    for call in (ours, held):
        first = torch.autograd.grad(call(*at).pow(2).sum(), at, create_graph=True)
        second = torch.autograd.grad(torch.stack([value.pow(2).sum() for value in first]).sum(), at)
        results.append((*first, *second))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(held, at)


@pytest.mark.parametrize("per_channel", [False, True])
def test_masks_and_residuals(per_channel: bool) -> None:
    x, residual = inputs((4, 3, 7))
    mask = torch.rand((4, 3 if per_channel else 1, 7), generator=torch.Generator().manual_seed(0)) < 0.7
    layer = made((4, 3, 7), schedule=TIGHT, activation="relu", estimator="pooled")
    before = statistics(layer)
    y = layer(torch.where(mask, x, float("nan")), residual, mask=mask)
    for channel in range(3):
        inside = mask.expand(4, 3, 7)[:, channel]
        values = x[:, channel][inside][:, None]
        alone = (array(values), array(layer.weight)[channel, None], array(layer.bias)[channel, None])
        own = Statistics(before.mean[channel, None], before.sigma[channel, None])
        right = reference_renorm.forward(*alone, own, 1.1, 0.2, 1e-5).y.ravel()
        right = np.maximum(right + array(residual[:, channel][inside]), 0)
        np.testing.assert_allclose(array(y[:, channel][inside]), right, rtol=1e-9, atol=1e-9)
        assert float(y[:, channel][~inside].detach().abs().sum()) == 0.0
    assert int(layer.num_batches_tracked) == 1


@pytest.mark.parametrize("seen", [0, 5000, 15000, 25000, 33000, 40000, 10**6])
def test_the_schedule_is_the_papers(seen: int) -> None:
    bounds = nt.RenormSchedule().bounds(torch.tensor(seen))
    assert (float(bounds.r_max), float(bounds.d_max)) == pytest.approx(reference_renorm.bounds(seen))


def test_the_schedule_follows_the_batches_and_comes_back_with_a_checkpoint() -> None:
    schedule = nt.RenormSchedule(warm_up=1, r_full=3, d_full=2, r_max=2.0, d_max=1.0)
    layer = nt.BatchRenorm1d(1, schedule=schedule)
    far = torch.tensor([[1000.0], [1001.0]])
    limits = []
    for _ in range(4):
        layer(far * 1.0)
        limits.append((float(layer.d), layer.clipping_rate().d))
    assert limits == [(0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)]
    again = nt.BatchRenorm1d(1, schedule=schedule)
    again.load_state_dict(layer.state_dict())
    again(far)
    assert float(again.d) == 1.0


def test_the_clipping_rate_is_the_share_of_channels() -> None:
    layer = nt.BatchRenorm1d(4, schedule=AT_ONCE, eps=1e-12, dtype=F64)
    # biased deviations 1, 4 and 1/4 and 1, means 0, 0, 0 and 6, against 1 and 0
    layer(torch.tensor([[1.0, 4.0, 0.25, 7.0], [-1.0, -4.0, -0.25, 5.0]], dtype=F64))
    assert layer.clipping_rate() == ClippingRate(r=0.5, d=0.25)
    torch.testing.assert_close(layer.r, torch.tensor([1.0, 3.0, 1 / 3, 1.0], dtype=F64))
    torch.testing.assert_close(layer.d, torch.tensor([0.0, 0.0, 0.0, 5.0], dtype=F64))


def kept_for_the_backward(layer: nn.Module, x: Tensor) -> int:
    """The number of values in the kept tensors that are at least as large as the input."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() >= x.numel():
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(kept.values())


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("size", [4, 24])  # for PyTorch's operator, and for the compiled kernels
def test_the_backward_keeps_no_more_than_batch_norms(size: int, layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(8, 16, size, size)).requires_grad_()
    assert kept_for_the_backward(nt.BatchRenorm2d(16), x) == kept_for_the_backward(nt.BatchNorm2d(16), x) == x.numel()


def test_small_batches_come_out_as_in_inference_where_torchs_do_not() -> None:
    draw = torch.Generator().manual_seed(0)
    plain, layer = nn.BatchNorm1d(8), nt.BatchRenorm1d(8, schedule=AT_ONCE)
    apart = []
    for mine in (plain, layer):
        outputs = []
        for _ in range(200):
            x = torch.randn(2, 8, generator=draw)
            right = copy.deepcopy(mine).eval()(x)
            outputs.append((mine(x) - right).abs().median())
        apart.append(float(torch.stack(outputs).detach()[100:].mean()))
    assert apart[0] > 0.3  # a batch of two has outputs of 1 and -1, whatever its values
    assert apart[1] < 0.01


@pytest.mark.parametrize("name", SCHEDULES)
def test_compiled_without_a_break_with_the_clipping_rate(name: str) -> None:
    torch._dynamo.reset()
    shape = (6, 3, 4)
    layer = made(shape, torch.float32, schedule=SCHEDULES[name], activation="relu")
    compiled: Any = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    for seed in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        y, right = compiled(x), layer(x)
        torch.testing.assert_close(y, right)
        torch.testing.assert_close(*(torch.autograd.grad(out.pow(2).sum(), x)[0] for out in (y, right)))
    torch.testing.assert_close(running(compiled), running(layer))
    assert compiled.clipping_rate() == layer.clipping_rate()


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_forward_that_is_run_again_takes_the_corrections_of_the_first(reentrant: bool) -> None:
    layer = made((6, 3), schedule=TIGHT, momentum=0.5)
    plain = copy.deepcopy(layer)
    x, dy = inputs((6, 3))
    found, right = (x.clone().requires_grad_() for _ in range(2))
    checkpoint(layer, found, use_reentrant=reentrant).pow(3).backward(dy)
    plain(right).pow(3).backward(dy)
    torch.testing.assert_close(found.grad, right.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(running(layer), running(plain))
    assert int(layer.num_batches_tracked) == 1


@pytest.mark.parametrize("sick", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_leaves_nothing_behind(sick: float) -> None:
    layer = made((6, 3), schedule=AT_ONCE)
    before = [value.clone() for value in running(layer)]
    x, _ = inputs((6, 3))
    x[0, 1] = sick
    layer(x)
    for value, old in zip(running(layer), before, strict=True):
        assert value[1] == old[1]
        assert value[0] != old[0]
    x, _ = inputs((6, 3))
    assert bool(layer(x).isfinite().all())


def test_inference_and_checkpoints_are_torchs() -> None:
    layer = made((6, 3), schedule=AT_ONCE)
    plain = nn.BatchNorm1d(3, dtype=F64)
    plain.load_state_dict(layer.state_dict())
    x, _ = inputs((6, 3))
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
    assert layer(x[:1]).shape == (1, 3)


def test_empty_and_tiny_batches() -> None:
    layer = made((6, 3), schedule=AT_ONCE)
    assert layer(torch.zeros(0, 3, dtype=F64)).shape == (0, 3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        layer(torch.zeros(1, 3, dtype=F64))
    assert int(layer.num_batches_tracked) == 0
    tolerant = made((6, 3), schedule=AT_ONCE, on_tiny_batch="running")
    x, _ = inputs((1, 3))
    torch.testing.assert_close(tolerant(x), copy.deepcopy(tolerant).eval()(x))


def test_copies_and_pickles() -> None:
    layer = made((6, 3), schedule=TIGHT)
    x, _ = inputs((6, 3))
    layer(x)
    with io.BytesIO() as file:
        torch.save(layer, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
    for again in (copy.deepcopy(layer), loaded):
        assert torch.equal(again(x), copy.deepcopy(layer)(x))
        assert again.clipping_rate() == layer.clipping_rate()
    assert repr(layer).endswith("schedule=RenormSchedule(warm_up=0, r_max=1.1, r_full=0, d_max=0.2, d_full=0))")


WRONG: list[tuple[Any, type[Exception], str]] = [
    (
        lambda: nt.BatchRenorm1d(3, track_running_stats=False),
        ValueError,
        "batch renormalization corrects towards running statistics, received track_running_stats=False: keep the "
        "statistics, or use BatchNorm.",
    ),
    (
        lambda: nt.BatchRenorm1d(3, schedule="paper"),  # type: ignore[arg-type]  # the test is what it says to it
        TypeError,
        "schedule must be a RenormSchedule, received str: pass for example RenormSchedule(r_max=2.0).",
    ),
    (
        lambda: nt.RenormSchedule(r_max=0.5),
        ValueError,
        "r_max must be 1 or more, received 0.5: 1 is no correction of the scale.",
    ),
    (
        lambda: nt.RenormSchedule(d_max=-1.0),
        ValueError,
        "d_max must be 0 or more, received -1.0: 0 is no correction of the shift.",
    ),
    (
        lambda: nt.RenormSchedule(warm_up=30000),
        ValueError,
        "warm_up must be 0 or more and at most r_full and d_full, received warm_up=30000, r_full=40000, d_full=25000: "
        "they count batches from the start.",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG)
def test_wrong_settings(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message
