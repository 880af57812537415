"""Values far from zero, many of them, and values on a grid: where running float32 sums go wrong, in both layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from normwise.kernels import reference
from normwise.kernels.kernel import Call
from normwise.kernels.two_pass import TWO_PASS
from normwise.torch import BatchNorm2d
from normwise.torch.functional import batch_norm
from tests.cases import array, gradients, running
from tests.tolerances import SAFETY, unit

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
IMAGES = {  # name: (N, C, H, W), values per channel; the last is a large photograph's first layer
    "few": (4, 4, 8, 8),
    "as many as are trusted without a look": (4, 4, 16, 16),
    "one more than that": (1, 4, 25, 41),
    "many": (16, 4, 64, 64),
}

# A mean kept as one float32 is off by half a unit; torch's running sums for channels last, where they are trusted, by
# what ``choose`` and ``functional`` promise: 2e-4 of a standard deviation at |mean| / std = 300, growing with it.
PROMISED = 2e-4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cut the running sums into shorter ones, so one is the worst, and it is what workers of a loader have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def off_by(y: Tensor, x: Tensor) -> float:
    """The largest error of a normalized value, in standard deviations."""
    right, _ = reference.forward_batch(x.double().numpy(), None, None, 1e-5)
    return float(np.abs(y.detach().double().numpy() - right).max())


def limit(far: float) -> float:
    """The error that a layer may have at this |mean| / std."""
    return PROMISED * max(1.0, far / 300) + SAFETY * unit(torch.float32) * (8 + far)


def standing(shape: tuple[int, ...], far: float) -> Tensor:
    """Normal values of spread 1 about ``far``."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) + far


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("far", [0.0, 1.0, 10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("images", IMAGES)
def test_a_layer_is_right_however_far_the_mean_is(images: str, far: float, memory_format: str) -> None:
    x = standing(IMAGES[images], far).contiguous(memory_format=FORMATS[memory_format])
    layer = BatchNorm2d(4, momentum=1.0)
    assert off_by(layer(x), x) <= limit(far)
    batch = reference.moments(x.double().numpy())
    mean, var = running(layer)
    np.testing.assert_allclose(mean.numpy(), batch.mean, rtol=1e-6, atol=limit(far))
    np.testing.assert_allclose(var.numpy(), batch.unbiased_var(), rtol=2 * limit(far) + 1e-5)


@pytest.mark.parametrize("far", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_two_pass_kernel_loses_nothing_to_the_mean(memory_format: str, far: float) -> None:
    x = standing((16, 4, 64, 64), far).contiguous(memory_format=FORMATS[memory_format])
    y, _ = TWO_PASS.forward_batch(Call(x))
    assert off_by(y, x) <= SAFETY * unit(torch.float32) * 8


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_million_values_far_from_zero(memory_format: str) -> None:
    x = standing((4, 2, 512, 512), 1e4).contiguous(memory_format=FORMATS[memory_format])
    assert off_by(batch_norm(x, None, None, training=True), x) <= limit(1e4)


def test_the_gradients_are_right_far_from_zero() -> None:
    x = standing((8, 3, 32, 32), 1e3).contiguous(memory_format=torch.channels_last).requires_grad_()
    dy = standing((8, 3, 32, 32), 0.0)
    weight, bias = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), torch.zeros(3, requires_grad=True)
    batch_norm(x, None, None, weight, bias, True).backward(dy)
    right = reference.backward_batch(array(dy), array(x), array(weight), array(bias), 1e-5)
    dx, dweight, dbias = gradients(x, weight, bias)
    np.testing.assert_allclose(dx.numpy(), right.x, atol=1e-5)
    np.testing.assert_allclose(dweight.numpy(), right.scale, rtol=1e-4)
    np.testing.assert_allclose(dbias.numpy(), right.shift, rtol=1e-4)


# Why the layers do not simply call PyTorch's operator. Should it be put right, this test says so: the verification in
# ``normwise.torch.functional`` and the rule in ``normwise.kernels.choose`` are then no longer needed.
def test_pytorch_is_still_wrong_far_from_zero_with_channels_last() -> None:
    x = standing((16, 4, 64, 64), 1e4)
    plain = torch.nn.functional.batch_norm
    assert off_by(plain(x, None, None, training=True), x) <= limit(1e4)
    last = x.contiguous(memory_format=torch.channels_last)
    assert off_by(plain(last, None, None, training=True), last) > 2 * limit(1e4)


GRIDS: dict[str, Callable[[Tensor], Tensor]] = {
    # the background of an image, and something in it: |mean| / std = 12
    "two values": lambda u: torch.where(u < 0.9, 1.1, 1.4),
    # a bright photograph of 8 bits: |mean| / std = 17
    "eight bits": lambda u: (u * 40 + 180).floor() / 255,
    # black and white, not centred: |mean| / std = 1.2
    "black and white": lambda u: torch.where(u < 0.5, 0.1, 1.1),
    # what a relu leaves: |mean| / std = 0.8
    "half of them 0": lambda u: (u - 0.5).relu(),
    # smooth ones for comparison: |mean| / std = 1.7
    "uniform": lambda u: u,
}


# Rounding is only random where the values are. A running sum of equal values is rounded the same way every time, so its
# error grows with n and not with sqrt(n), and it needs no large mean.
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("values", GRIDS)
def test_values_on_a_grid_are_normalized_right(values: str, memory_format: str) -> None:
    u = torch.rand((4, 2, 256, 256), generator=torch.Generator().manual_seed(0))
    x = GRIDS[values](u).contiguous(memory_format=FORMATS[memory_format])
    layer = BatchNorm2d(2, momentum=1.0)
    assert off_by(layer(x), x) <= limit(17.0)
    batch = reference.moments(x.double().numpy())
    np.testing.assert_allclose(running(layer)[1].numpy(), batch.unbiased_var(), rtol=4e-4)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("value", [0.0, 1.1, -1e4, 1e6])
def test_a_constant_image_comes_out_as_the_bias(value: float, memory_format: str) -> None:
    x = torch.full((4, 2, 64, 64), value).contiguous(memory_format=FORMATS[memory_format])
    bias = torch.tensor([0.5, -2.0])
    running_mean, running_var = torch.zeros(2), torch.ones(2)
    y = batch_norm(x, running_mean, running_var, None, bias, True, 1.0)
    # a mean kept as one float32 is at most half a unit off, which sqrt(eps) makes larger
    allowed = SAFETY * unit(torch.float32) * (abs(value) / 1e-5**0.5 + 2)
    assert float((y - bias.view(1, 2, 1, 1)).abs().max()) <= allowed
    assert running_mean.tolist() == pytest.approx([value, value], rel=1e-6)
    assert running_var.tolist() == pytest.approx([0.0, 0.0], abs=(abs(value) * 2 * unit(torch.float32)) ** 2)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_value_that_is_not_finite_is_not_hidden(dtype: torch.dtype, memory_format: str) -> None:
    x = standing((2, 3, 32, 32), 0.0).to(dtype).contiguous(memory_format=FORMATS[memory_format])
    x[0, 1, 3, 3] = float("inf")
    x[1, 2, 5, 5] = float("nan")
    y = BatchNorm2d(3)(x)
    assert bool(y[:, 0].isfinite().all())
    assert bool(y[:, 2].isnan().all())
    assert not bool(y[:, 1].isfinite().all())
