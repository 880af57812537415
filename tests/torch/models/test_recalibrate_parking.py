"""Batches that wait in the host's memory, on the CPU, which stands in for a device with memory of its own.

No GPU was at hand: what these tests hold is which storages go and come back, when, and that no bit changes.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normwise.torch as nt
from normwise.recalibration.site import Site
from normwise.side_by_side import NAME
from normwise.torch.models.recalibration import parking, tensors
from normwise.torch.models.recalibration.adapt import adapt
from normwise.torch.models.recalibration.parking import Parking
from normwise.torch.models.recalibration.recalibrate import recalibrate
from tests.torch.models.test_recalibrate_in_step import Block, Dense, Masked, images, start

BATCHES = 4
GLOBAL = torch.linspace(-1, 1, 25).reshape(1, 1, 5, 5).clone()  # so that nobody else holds its memory


class Spy:
    """The numbers of forwards that were counted and of bytes that went to the host."""

    def __init__(self) -> None:
        self.forwards, self.bytes = 0, 0


@pytest.fixture(autouse=True)
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    """The CPU as a device with memory of its own, whose waiting batches are counted."""
    monkeypatch.setattr(parking, "OWN_MEMORY", frozenset({"cpu"}))
    around, on_host, found = Parking.around, parking._on_host, Spy()

    def counted(self: Parking, batch: Any) -> Any:
        found.forwards += 1
        return around(self, batch)

    def weighed(storage: torch.UntypedStorage) -> Tensor:
        found.bytes += storage.nbytes()
        return on_host(storage)

    monkeypatch.setattr(Parking, "around", counted)
    monkeypatch.setattr(parking, "_on_host", weighed)
    yield found
    assert not [thread for thread in threading.enumerate() if thread.name == NAME]


def room_for(batches: list[Any], more: float = 2.0) -> float:
    """The bytes in which the batches have a place, and no forward but the one that runs."""
    return float(len(batches) * max(x.nbytes for x in batches)) + more


class Views(nn.Module):
    """Values that are changed in place behind a batch norm, by a view that was made before it; two names for one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        y = x * 2
        row, same, bits = y[:, :1], (y, y.detach()), y.view(torch.int32)
        z = self.one(y).sigmoid()
        row.add_(1)
        z *= same[1]
        bits.bitwise_and_(-2)
        return self.two(z + same[0].transpose(2, 3)).mean(), y


class Lazy(nn.Module):
    """The first forward makes a mask that all others use, of which each changes one value."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.mask: Any = None

    def forward(self, x: Tensor) -> Any:
        if self.mask is None:
            self.mask = torch.ones_like(x[:1])
        return self.two(self.one(x) * self.mask + self.mask.cos())


class Outside(nn.Module):
    """Uses what was made before the forward, by views of it, and says how large it is while others wait."""

    scale: Tensor

    def __init__(self, seen: list[int], batches: list[Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.register_buffer("scale", torch.ones(4, 1, 1))
        self.seen, self.batches = seen, batches

    def forward(self, x: Tensor) -> Any:
        there = [*self.batches, GLOBAL, self.scale, *self.parameters()]
        self.seen.extend(each.untyped_storage().nbytes() for each in there)
        row, scale, column = x[:, :1], self.scale.view(1, 4, 1, 1), GLOBAL.mul_(1)[..., :1]
        return self.two(self.one(x * scale) + row + column)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: nn.Sequential(*start(), Block(4), Block(4)),
    "dense": lambda: nn.Sequential(nn.Conv2d(2, 4, 1), Dense(4)),
    "masked": Masked,
    "views": lambda: nn.Sequential(nn.Conv2d(2, 4, 1), Views()),
    "lazy": lambda: nn.Sequential(nn.Conv2d(2, 4, 1), Lazy()),
    "outside": lambda: nn.Sequential(nn.Conv2d(2, 4, 1), Outside([], [])),
    "whitening": lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nt.DecorrelatedBatchNorm2d(4), nn.Tanh(), nn.BatchNorm2d(4)),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def same(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("operation", "name"),
    [*((recalibrate, name) for name in NETWORKS), *((adapt, name) for name in NETWORKS if name != "whitening")],
)
def test_the_statistics_are_those_of_batches_that_stay_bit_for_bit(name: str, operation: Any, spy: Spy) -> None:
    batches = images()
    parked, stayed, by_layer = network(name), network(name), network(name)
    with torch.inference_mode(name == "dense"):
        report = operation(parked, batches, memory=room_for(batches))
    assert (spy.forwards, spy.bytes > sum(x.nbytes for x in batches)) == (BATCHES, True)
    held = operation(stayed, batches)
    assert spy.forwards == BATCHES
    assert str(report) == str(held)
    operation(by_layer, batches, memory=0)
    same(parked, stayed)
    same(parked, by_layer)
    for x, again in zip(batches, images(), strict=True):
        assert torch.equal(x, again)


def test_what_a_waiting_batch_made_is_empty_and_what_was_there_before_is_not() -> None:
    made: list[Tensor] = []
    sizes: list[list[int]] = []

    class Look(nn.Module):
        """Keeps its input, and asks how large those of the others are."""

        def forward(self, x: Tensor) -> Tensor:
            sizes.append([each.untyped_storage().nbytes() for each in made])
            y = x * 2
            made.append(y)
            return y

    seen: list[int] = []
    batches = images()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), Look(), Outside(seen, batches))
    recalibrate(model, batches, memory=room_for(batches))
    # One forward alone, which the restored model forgets; four in step; one more of the first batch.
    in_step = sizes[1:5]
    assert [each[1:] for each in in_step] == [[0] * number for number in range(4)]
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in made)
    assert len(seen) == 6 * (BATCHES + 6)
    assert 0 not in seen


def test_only_as_many_batches_leave_as_have_to_and_the_first_is_one_of_them(spy: Spy) -> None:
    batches = [torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    each = batches[0].nbytes  # where a batch waits, it holds one activation of the size of its input
    first: list[bool] = []
    around = Parking.around

    def told(self: Parking, batch: Any) -> Any:
        first.append(batch is batches[0])
        return around(self, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parking, "around", told)
        report = recalibrate(copy.deepcopy(model), batches, memory=12 * each - 1)
        assert (report.in_step, sum(first), spy.forwards) == (True, 1, 2)
        first.clear()
        assert recalibrate(copy.deepcopy(model), batches, memory=9.5 * each).in_step
        assert (sum(first), len(first)) == (1, 4)
    assert recalibrate(copy.deepcopy(model), batches, memory=13 * each).in_step
    assert spy.forwards == 6


def test_where_neither_memory_is_enough_it_is_layer_by_layer(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    batches = images()
    one, other = network("residual"), network("residual")
    report = recalibrate(one, batches, memory=room_for(batches) - 4)
    assert "batches need" in report.why_not_in_step
    assert "memory allows" in report.why_not_in_step
    monkeypatch.setattr(tensors, "free_memory", lambda: 4 * room_for(batches))
    report = recalibrate(one, batches, memory=room_for(batches))
    assert (report.in_step, spy.forwards) == (False, 0)
    recalibrate(other, batches, memory=0)
    same(one, other)


def test_too_little_memory_in_the_middle_is_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = parking._on_host, []

    def full(storage: torch.UntypedStorage) -> Tensor:
        calls.append(1)
        if len(calls) > 7:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(storage)

    monkeypatch.setattr(parking, "_on_host", full)
    one, other, batches = network("residual"), network("residual"), images()
    report = recalibrate(one, batches, memory=room_for(batches))
    assert report.why_not_in_step == "a forward failed with RuntimeError"
    assert len(calls) == 8
    recalibrate(other, batches, memory=0)
    same(one, other)


class Failing(nn.Module):
    """Keeps what it makes, also on the way out, and fails in the middle of one batch."""

    def __init__(self, error: BaseException, kept: list[tuple[Tensor, ...]], ended: list[float]) -> None:
        super().__init__()
        self.one, self.two, self.error, self.kept, self.ended = nn.BatchNorm2d(2), nn.BatchNorm2d(2), error, kept, ended

    def forward(self, x: Tensor) -> Any:
        y = x * 3
        self.kept.append((x, y, x + 1))  # of which the last one is of no use on the way out
        try:
            z = self.one(y.relu())
            if x.shape[0] == 1:
                raise self.error
            return self.two(z + y)
        finally:
            self.ended.append(float(y.sum() / x.sum()))


@pytest.mark.parametrize(
    "error", [ValueError("no more"), KeyboardInterrupt(), SystemExit(3)], ids=lambda e: type(e).__name__
)
def test_an_error_in_the_middle_gives_everything_back(error: BaseException, spy: Spy) -> None:
    kept: list[tuple[Tensor, ...]] = []
    ended: list[float] = []
    model = Failing(error, kept, ended)
    before = copy.deepcopy(model.state_dict())
    batches = [*images(), torch.ones(1, 2, 5, 5)]
    with pytest.raises(type(error)):
        recalibrate(model, batches, memory=room_for(batches))
    assert spy.forwards == len(batches)
    assert spy.bytes > 0
    assert len(kept) >= 1 + len(batches)
    for x, y, z in kept:
        assert torch.equal(y, x * 3)
        assert torch.equal(z, x + 1)
    assert ended == pytest.approx([3.0] * len(ended), rel=1e-4)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_error_while_all_wait_gives_everything_back(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Tensor, ...]] = []
    model, batches = Failing(ValueError(), kept, []), images()[:3]
    before = copy.deepcopy(model.state_dict())

    def interrupted(_: Site) -> None:
        assert all(part.untyped_storage().nbytes() == 0 for _, *made in kept[1:] for part in made)
        raise error

    monkeypatch.setattr(Site, "settle", interrupted)
    with pytest.raises(error):
        recalibrate(model, batches, memory=room_for(batches))
    assert len(kept) == 1 + len(batches)  # the first one alone, and all of them
    for x, y, z in kept:
        assert torch.equal(y, x * 3)
        assert torch.equal(z, x + 1)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Elsewhere(nn.Module):
    """Operators of somebody's own give memory that is NumPy's, and a tensor that they keep."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.one, self.two, self.sizes = nn.BatchNorm2d(2), nn.BatchNorm2d(2), sizes

    def forward(self, x: Tensor) -> Any:
        self.sizes.append(GLOBAL.untyped_storage().nbytes())
        y, kept = torch.ops.normwise_tests.of_numpy(x), torch.ops.normwise_tests.kept(x)
        return self.two(self.one(y).relu() + y + kept)


def test_memory_that_pytorch_cannot_resize_or_an_operator_keeps_stays(spy: Spy) -> None:
    library = torch.library.Library("normwise_tests", "DEF")
    library.define("of_numpy(Tensor x) -> Tensor")
    library.define("kept(Tensor x) -> Tensor")
    library.impl("of_numpy", lambda x: torch.from_numpy(np.sin(x.numpy())), "CPU")
    library.impl("kept", lambda _: GLOBAL, "CPU")
    sizes: list[int] = []
    one, other, batches = Elsewhere(sizes), Elsewhere(sizes), images()
    assert recalibrate(one, batches, memory=room_for(batches)).in_step
    assert spy.forwards == BATCHES
    assert set(sizes) == {100}
    recalibrate(other, batches, memory=0)
    same(one, other)


def test_nothing_is_parked_where_operations_do_not_show_what_they_use(spy: Spy) -> None:
    batches = images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are models with such parts
        part: Any = torch.jit.trace(nn.ReLU(), torch.ones(1))
    model = nn.Sequential(*start(), part, nn.BatchNorm2d(4))
    report = recalibrate(model, batches, memory=room_for(batches))
    assert (report.in_step, spy.forwards) == (False, 0)


def test_the_host_has_one_memory(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    monkeypatch.undo()
    assert sorted(parking.OWN_MEMORY) == ["cuda", "xpu"]
    batches = images()
    report = recalibrate(network("residual"), batches, memory=room_for(batches))
    assert (report.in_step, spy.forwards) == (False, 0)
