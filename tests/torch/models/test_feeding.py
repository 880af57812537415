"""Batches that enter a model: which of their parts are its arguments, where they lie, and how often they are there."""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import nn

from normwise.errors import NormwiseError
from normwise.recalibration import batches as batches_of_recalibration
from normwise.recalibration.batches import Batches
from normwise.torch.models.feeding import arguments, call, device_of, moved, samples_in, unwrapped


class Image(NamedTuple):
    pixels: Any
    label: Any


class Pair(NamedTuple):
    left: Any
    right: Any


class Takes(nn.Module):
    def forward(self, pixels: Any) -> Any:
        return pixels


class TakesMask(nn.Module):
    def forward(self, pixels: Any, mask: Any = None) -> Any:
        return pixels, mask


class TakesTwo(nn.Module):
    def forward(self, left: Any, right: Any) -> Any:
        return left, right


class TakesAny(nn.Module):
    def forward(self, *inputs: Any, **named: Any) -> Any:
        return inputs, named


CASES: list[tuple[nn.Module, Any, tuple[Any, ...], dict[str, Any]]] = [
    (Takes(), 1, (1,), {}),
    (Takes(), (1, 2), (1,), {}),
    (Takes(), [1, 2], (1,), {}),
    (Takes(), Image(1, 2), (), {"pixels": 1}),
    (Takes(), Pair(1, 2), (1,), {}),
    (Takes(), {"pixels": 1, "label": 2}, (), {"pixels": 1}),
    (Takes(), UserDict(pixels=1, label=2), (), {"pixels": 1}),
    (Takes(), {"image": 1}, ({"image": 1},), {}),
    (TakesMask(), (1, 2), (1,), {}),  # the second may be a label: only forward_fn can know
    (TakesMask(), {"pixels": 1, "mask": 3, "label": 2}, (), {"pixels": 1, "mask": 3}),
    (TakesTwo(), (1, 2, 3), (1, 2), {}),
    (TakesTwo(), Pair(1, 2), (), {"left": 1, "right": 2}),
    (TakesAny(), (1, 2), (1,), {}),
    (TakesAny(), {"a": 1}, (), {"a": 1}),
    (nn.Sequential(Takes()), (1, 2), (1,), {}),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_arguments_are_what_forward_cannot_do_without(case: int) -> None:
    model, batch, positional, named = CASES[case]
    assert arguments(model, batch) == (positional, named)


def test_the_users_own_way_goes_before_the_rules() -> None:
    found = call(TakesMask(), (1, 2), forward_fn=lambda model, batch: model(batch[0], mask=batch[1]))
    assert found == (1, 2)


def test_tensors_are_moved_wherever_they_are_in_a_batch() -> None:
    x, meta = torch.ones(2), torch.device("meta")
    found = moved((x, [x, 1], {"a": (x,)}, Image(x, "label"), "word"), meta)
    assert [found[0].device, found[1][0].device, found[2]["a"][0].device, found[3].pixels.device] == [meta] * 4
    assert type(found[3]) is Image
    assert (found[1][1], found[3].label, found[4]) == (1, "label", "word")
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(3, 2, 4), [3, 2])
    assert moved(packed, torch.device("cpu")).data.shape == (5, 4)


def test_no_gradient_is_kept() -> None:
    assert not call(nn.Linear(2, 2), torch.ones(3, 2)).requires_grad


@pytest.mark.parametrize(
    ("batch", "samples"),
    [(torch.ones(5, 2), 5), (torch.tensor(3.0), 1), (("a", [torch.ones(4)]), 4), ({"x": Image(torch.ones(3), 0)}, 3)],
)
def test_samples_are_counted_along_the_first_axis_of_the_first_tensor(batch: Any, samples: int) -> None:
    assert samples_in(batch) == samples
    assert samples_in(["no", "tensor"]) == 0


def test_what_wraps_a_model_is_passed_by() -> None:
    inner = nn.Linear(2, 2)
    averaged: Any = torch.optim.swa_utils.AveragedModel(nn.DataParallel(inner))
    assert type(unwrapped(averaged)) is nn.Linear
    assert unwrapped(torch.compile(inner, backend="eager")) is inner  # type: ignore[arg-type]  # a module, says torch
    assert unwrapped(inner) is inner
    assert device_of(nn.Identity()) == torch.device("cpu")


def test_a_generator_can_be_gone_through_again_and_gives_no_more_than_was_asked() -> None:
    given: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            given.append(len(given))
            yield given[-1]

    batches = Batches(endless(), at_most=3, called="test")
    assert [list(batches), list(batches)] == [[0, 1, 2]] * 2
    assert len(given) == 3
    batches.at_most = 5
    assert list(batches) == [0, 1, 2, 3, 4]
    batches.at_most = 0
    assert list(batches) == []


def test_what_can_be_iterated_again_is_not_kept() -> None:
    class Fresh:
        def __iter__(self) -> Iterator[float]:
            return iter([random.random(), random.random()])

    batches = Batches(Fresh(), called="test")
    assert list(batches) != list(batches)


def test_what_has_only_items_is_iterated() -> None:
    class Items:
        def __getitem__(self, place: int) -> int:
            if place == 2:
                raise IndexError
            return place

    items: Any = Items()
    assert list(Batches(items, called="test")) == [0, 1]


def test_the_bar_is_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    list(Batches(range(3), called="recalibrate"))
    assert capsys.readouterr().err == ""


class Bar:
    """A stand-in for tqdm's bar that notes what happens to it."""

    made: ClassVar[list[Bar]] = []

    def __init__(self, **settings: Any) -> None:
        self.settings, self.done, self.closed = settings, 0, False
        self.total: int | None = None
        self.made.append(self)

    def update(self) -> None:
        self.done += 1

    def close(self) -> None:
        self.closed = True


def test_one_bar_shows_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_of_recalibration, "tqdm", Bar)
    Bar.made.clear()
    batches = Batches([1, 2, 3], at_most=2, called="recalibrate")
    batches.passes = 3
    for _ in range(2):
        list(batches)
    (bar,) = Bar.made
    assert (bar.total, bar.done, bar.closed) == (6, 4, False)
    list(batches)
    assert (bar.done, bar.closed) == (6, True)
    settings = {"desc": "recalibrate", "unit": "batch", "delay": 2, "leave": False, "disable": None}
    assert bar.settings == settings  # only on a terminal, and only after two seconds
    list(batches)
    assert len(Bar.made) == 2
    batches.close()
    assert Bar.made[1].closed


@pytest.mark.parametrize("wrong", [None, "data", {"x": 1}, torch.ones(2)])
def test_what_holds_no_batches_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError) as refused:
        Batches(wrong, called="adapt")
    assert str(refused.value) == (
        f"adapt needs an iterable of batches, received {type(wrong).__name__}: pass a data loader, or a list with one "
        "batch in it."
    )


def test_fewer_than_one_batch_is_refused() -> None:
    with pytest.raises(
        NormwiseError, match=r"^adapt needs at least one batch, received -1: state how many, or None\.$"
    ):
        Batches([], at_most=-1, called="adapt")
