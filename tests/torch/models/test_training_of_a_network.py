"""A residual network of bottlenecks learns the digits, 300 steps, before and after ``normwise.fuse``: the losses agree.

In float64 they agree at every step. In float32 a training is chaotic: after some dozen steps, one that starts from
images that are off by the last bit has other losses. So PyTorch's own network is trained on such images too, and the
fused one has to be as near to these runs as they are to each other.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

import normwise
import normwise.torch as nt
from benchmarks.networks import Bottleneck
from normwise.kernels import choose, cpu

if cpu.library is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

STEPS, BATCH, LEARNING_RATE = 300, 32, 0.05
TRAINED_ON = 1500  # of the 1797 images; the others are for the accuracy
FIRST, LAST = torch.contiguous_format, torch.channels_last


class Training(NamedTuple):
    """The loss before every step, and the share of images, not trained on, that are told right in the end."""

    losses: NDArray[np.float64]
    accuracy: float


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) of mean 0 and variance 1 in float64, and what they show."""
    found = load_digits()
    images = torch.from_numpy(found.images)[:, None]
    return (images - images.mean()) / images.std(), torch.from_numpy(found.target)


def network() -> nn.Module:
    """Eight batch norms: before ReLU, before an addition and ReLU, and in a shortcut."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        Bottleneck(16, 4, 1),
        Bottleneck(16, 8, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def trained(images: Tensor, *, fused: bool = False, layout: torch.memory_format = FIRST) -> Training:
    """The training from the same weights, on the same batches."""
    model = network()
    if fused:
        report = normwise.fuse(model)
        assert str(report).startswith("7 of 8 batch norms fused, 1 swapped")
        assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
        assert sum(isinstance(module, nt.BatchNorm2d) for module in model.modules()) == 8
    model.to(dtype=images.dtype).to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's own types
    _, targets = digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    draw = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        batch = torch.randint(TRAINED_ON, (BATCH,), generator=draw)
        loss = nn.functional.cross_entropy(model(images[batch].contiguous(memory_format=layout)), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        told = model.eval()(images[TRAINED_ON:].contiguous(memory_format=layout)).argmax(1)
    return Training(np.array(losses), float((told == targets[TRAINED_ON:]).double().mean()))


def off_by_the_last_bit(images: Tensor, seed: int) -> Tensor:
    """Every pixel is one of its two neighbours among the numbers of its dtype."""
    up = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return images.nextafter(torch.where(up, torch.inf, -torch.inf).to(images.dtype))


@cache
def by_pytorch() -> tuple[Training, ...]:
    """The trainings by PyTorch in float32, on the images and on three that are off by the last bit."""
    images = digits()[0].float()
    return (trained(images), *(trained(off_by_the_last_bit(images, seed)) for seed in range(3)))


@cache
def exactly_by_pytorch() -> Training:
    return trained(digits()[0])


def apart(one: Training, other: Training) -> float:
    """The mean distance of the losses."""
    return float(np.abs(one.losses - other.losses).mean())


@pytest.fixture(autouse=True)
def _compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors as small as these would go to PyTorch's operator, which agrees to the bit."""
    monkeypatch.setattr(choose, "_ASKED", "cpu")


@pytest.mark.parametrize("layout", [FIRST, LAST], ids=["channels first", "channels last"])
def test_in_float64_the_losses_agree_at_every_step(layout: torch.memory_format) -> None:
    right, found = exactly_by_pytorch(), trained(digits()[0], fused=True, layout=layout)
    assert right.losses[-50:].mean() < right.losses[0] / 10  # it has learned
    np.testing.assert_allclose(found.losses, right.losses, rtol=1e-9)
    assert found.accuracy == right.accuracy > 0.75


@pytest.mark.parametrize("layout", [FIRST, LAST], ids=["channels first", "channels last"])
def test_in_float32_they_are_as_near_as_pytorchs_own_are_to_each_other(layout: torch.memory_format) -> None:
    theirs, found = by_pytorch(), trained(digits()[0].float(), fused=True, layout=layout)
    np.testing.assert_allclose(found.losses[:10], theirs[0].losses[:10], rtol=1e-5)  # not chaotic yet
    spread = [apart(one, other) for one, other in combinations(theirs, 2)]
    assert max(spread) > 1e-3  # chaotic afterwards
    assert np.mean([apart(found, other) for other in theirs]) < 1.5 * max(spread)
    ends = [training.losses[-50:].mean() for training in theirs]
    width = max(ends) - min(ends)
    assert min(ends) - width < found.losses[-50:].mean() < max(ends) + width
    assert found.accuracy > min(training.accuracy for training in theirs) - 0.05
