"""The plan that cuts tensors: every value once, pieces that fit the cache, and enough programs for the chip."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shapes import RESNET50_LAYERS, Shape
from normwise.kernels.triton_gpu.plan import (
    JOINED_LAST,
    LINE,
    LITTLE,
    MOST_COUNTERS,
    MOST_SPLITS,
    SMALL,
    SMALLEST,
    Device,
    Settings,
    parts,
    plan,
    power_of_two,
    view_of,
)

H200 = Device("NVIDIA H200", 132, 60 << 20)


@given(
    st.lists(st.integers(1, 600), min_size=2, max_size=4).map(tuple),
    st.booleans(),
    st.sampled_from([2, 4]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_every_value_is_in_one_tile_of_one_program(
    shape: tuple[int, ...], last: bool, itemsize: int, streams: int, whole: bool
) -> None:
    cut = plan(view_of(shape, itemsize, last=last), H200, Settings(), streams=streams, whole=whole)
    view = cut.view
    groups = sum(piece.groups for piece in cut.pieces)
    assert [piece.first for piece in cut.pieces] == [
        sum(piece.groups for piece in cut.pieces[:number]) for number in range(len(cut.pieces))
    ]
    assert groups == (-(-view.channels // cut.across) if last else view.channels)
    assert cut.tiles * cut.down >= view.rows * cut.blocks > (cut.tiles // cut.blocks - 1) * cut.down * cut.blocks
    assert last or cut.blocks * cut.across >= view.width > (cut.blocks - 1) * cut.across
    assert (cut.splits - 1) * cut.per < cut.tiles <= cut.splits * cut.per
    assert cut.splits <= MOST_SPLITS
    assert cut.down & (cut.down - 1) == cut.across & (cut.across - 1) == 0
    assert view.width % view.vector == 0
    assert not cut.by_last or (whole and len(cut.pieces) == 1 and groups <= MOST_COUNTERS)
    assert not cut.held or (whole and cut.tiles == cut.splits == 1 and cut.down * cut.across <= Settings().held)


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("layer", RESNET50_LAYERS, ids=lambda layer: layer.name)
def test_the_layers_of_resnet50(layer: Shape, last: bool) -> None:
    """At batch 256: loads 16 bytes wide but for 7 x 7, pieces within the cache or as many as there may be launches for,
    and a program for every processor."""
    itemsize, pixels = 2 if last else 4, layer.size[-1]
    cut = plan(view_of((256, *layer.size[1:]), itemsize, last=last), H200, Settings(), streams=1)
    if last or pixels > 7:
        assert cut.view.vector * itemsize == 16
    if last and not cut.held:
        assert cut.across * itemsize == LINE
    room = Settings().share * H200.cache
    bytes_of_group = cut.view.values * itemsize * (cut.across if last else 1)
    fits = cut.pieces[0].groups * bytes_of_group <= room
    assert len(cut.pieces) == 1 or fits or len(cut.pieces) == Settings().launches // 2
    assert cut.held or cut.pieces[0].groups * cut.splits >= H200.processors


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(
    ("shape", "last"),
    [*(((batch, 512, side, side), False) for batch in (32, 64, 128, 256, 512) for side in (1, 5, 6, 7, 8, 12))]
    + [((batch, 2048), True) for batch in (8, 128, 512)],
    ids=str,
)
def test_a_thread_that_holds_values_of_a_channel_holds_few(shape: tuple[int, ...], last: bool, itemsize: int) -> None:
    """So that its 128 registers suffice: 16 at most, and 8 where every value has an address of its own."""
    view = view_of(shape, itemsize, last=last)
    cut = plan(view, H200, Settings(), streams=1)
    if cut.held:
        assert cut.down * cut.across / (32 * cut.warps) <= (8 if view.vector <= 2 else 16)
        assert cut.warps <= 16
    large = 4096 if view.vector <= 2 else 8192
    assert cut.held == (power_of_two(view.rows) * cut.across <= large)


def test_few_numbers_of_parts_are_compiled() -> None:
    assert {parts(splits) for splits in range(1, MOST_SPLITS + 1)} == {8, 32, 128, 512, 1024}
    assert all(parts(splits) >= splits for splits in range(1, MOST_SPLITS + 1))


def test_channels_last_that_do_not_fit_are_one_piece() -> None:
    """Their second sweep runs in reverse."""
    cut = plan(view_of((256, 64, 112, 112), 2, last=True), H200, Settings(), streams=1)
    assert (len(cut.pieces), cut.splits, cut.joins) == (1, 526, False)


def test_a_share_of_zero_is_one_piece() -> None:
    view = view_of((256, 256, 56, 56), 4, last=False)
    assert len(plan(view, H200, Settings(), streams=2).pieces) > 1
    assert len(plan(view, H200, Settings(share=0), streams=2).pieces) == 1


@pytest.mark.parametrize("streams", [1, 2], ids=["forward", "backward"])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("layer", RESNET50_LAYERS, ids=lambda layer: layer.name)
def test_a_call_has_a_bounded_number_of_launches(layer: Shape, last: bool, streams: int) -> None:
    """At batch 256; pieces that the bound makes larger are about as large as each other."""
    view = view_of((256, *layer.size[1:]), 2 if last else 4, last=last)
    for bound in (64, 16):
        cut = plan(view, H200, Settings(launches=bound), streams=streams)
        assert len(cut.pieces) * (2 if cut.joins else 3) <= bound
        assert cut.pieces[0].groups - cut.pieces[-1].groups < cut.pieces[0].groups


@pytest.mark.parametrize(
    ("shape", "last", "groups"),
    [
        ((32, 16, 28, 28), False, 16),
        ((8, 3, 56, 56), False, 3),
        ((1024, 1, 31), False, 1),
        ((4, 256, 28, 28), True, 16),
    ],
    ids=str,
)
def test_small_tensors_of_few_channels_are_one_launch_of_many_programs(
    shape: tuple[int, ...], last: bool, groups: int
) -> None:
    cut = plan(view_of(shape, 4, last=last), H200, Settings(), streams=1)
    assert (cut.by_last, cut.pieces[0].groups) == (True, groups)
    assert cut.splits > 1
    assert cut.view.values * cut.view.itemsize * (cut.across if last else 1) <= Settings().alone


@pytest.mark.parametrize(
    ("shape", "streams", "twice"),
    [
        ((64, 16, 56, 56), 1, True),  # not small
        ((32, 4, 64, 64), 2, True),  # too much for one program
        ((32, 16, 28, 28), 1, False),  # one sweep
    ],
    ids=str,
)
def test_other_tensors_are_not(shape: tuple[int, ...], streams: int, twice: bool) -> None:
    assert not plan(view_of(shape, 4, last=False), H200, Settings(), streams=streams, twice=twice).by_last


@pytest.mark.parametrize("streams", [1, 2], ids=["forward", "backward"])
def test_a_small_tensor_takes_few_launches(streams: int) -> None:
    """One launch unless one program would go through more than it may; three only for thousands of values."""
    sizes = product((1, 4, 32, 256), (3, 16, 64, 256, 1280, 2048), (1, 7, 14, 28, 56, 112))
    small = [(n, c, side, side) for n, c, side in sizes if n * c * side * side * 4 < SMALL and n * side > 1]
    for shape, last in product(small, (False, True)):
        view = view_of(shape, 4, last=last)
        cut = plan(view, H200, Settings(), streams=streams)
        alone = view.values * view.itemsize * streams * (SMALLEST if last else 1) <= Settings().alone
        assert not alone or cut.held or cut.by_last, shape
        assert cut.held or cut.by_last or cut.joins or cut.tiles > JOINED_LAST * LITTLE, shape
        everything = plan(view, H200, Settings(alone=SMALL * SMALLEST), streams=streams)
        assert everything.held or everything.by_last, shape


def test_what_is_read_once_is_one_piece() -> None:
    """The cache has nothing to give back to a single sweep."""
    view = view_of((256, 256, 56, 56), 4, last=False)
    assert len(plan(view, H200, Settings(), streams=1, whole=False, twice=False).pieces) == 1
