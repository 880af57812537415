"""The division of a tensor into tiles for a step of a program, programs for a launch, and pieces that fit the cache.

Nothing here needs Triton or a GPU: what a device is comes in as three numbers, so that the same plans can be made,
tested and counted anywhere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Size

VECTOR_BYTES = 16  # the widest load of a thread
LINE = 128  # bytes that memory hands out at once
SMALLEST = 8  # columns of a tile: a byte of bits
# Partial results of a channel, at most, that every program of the second launch puts together itself: where the
# channels come last it does so for many channels.
JOINED, JOINED_LAST = 512, 32
MOST_SPLITS = 1024
# Partial results that a kernel is compiled for: few numbers, so that few kernels are compiled.
PARTS = (8, 32, 128, 512, MOST_SPLITS)
SMALL = 4 << 20  # bytes of a tensor that one launch may do
LITTLE = 8  # tiles of a small tensor that a program goes through before it pays to put parts together in a third launch
MOST_COUNTERS = 2048  # of a launch: groups whose programs are counted
# Threads of a warp, and the most warps of a program that holds a channel. A thread of so many warps has 128 registers:
# it holds few values, and fewer where it needs an address for each of them, as it does where rows allow no wide loads.
WARP, HELD_WARPS = 32, 16
HELD_VECTORS, LEAST_HELD, MOST_HELD = 4, 8, 16
SECTOR = 32  # bytes that the second-level cache hands out at least


class Device(NamedTuple):
    """The facts about a GPU that a plan needs."""

    name: str
    processors: int  # multiprocessors, compute units
    cache: int  # bytes of the second-level cache


class Settings(NamedTuple):
    """The settings that ``normwise tune`` chooses; the defaults are a design, measured on no device."""

    elements: int = 2048  # of a tile
    warps: int = 8  # of a program
    programs: int = 4  # for each processor
    share: float = 0.4  # of the cache that the tensors of a piece may take; 0 for one piece
    held: int = 8192  # elements of a tile that may hold a whole channel, so that one launch does all
    # Bytes of a group that its last program may read again alone, so that one launch does all of a small tensor. A
    # processor takes 64 bytes a clock from the cache at best, which is 3 microseconds for these, about what a launch
    # takes; 4 MB would take 40. `normwise tune` times none, these, and all of a small tensor.
    alone: int = 256 << 10
    launches: int = 64  # of a forward or a backward, at most; fewer pieces are larger ones


class View(NamedTuple):
    """A tensor as a matrix: see ``tiles.py``."""

    rows: int
    channels: int
    width: int  # of a row: the values of one channel in a sample, or all channels
    last: bool  # whether the channels come last in memory
    itemsize: int

    @property
    def values(self) -> int:
        """The number of values of a channel."""
        return self.rows if self.last else self.rows * self.width

    @property
    def vector(self) -> int:
        """The number of values that a thread may load at once: a power of two that divides a row."""
        return math.gcd(self.width, VECTOR_BYTES // self.itemsize)


class Piece(NamedTuple):
    """Neighbouring groups of channels that are done together."""

    first: int
    groups: int


class Plan(NamedTuple):
    """Everything that a launch needs except the tensors."""

    view: View
    down: int  # rows of a tile
    across: int  # columns of a tile
    blocks: int  # tiles side by side in a row
    tiles: int  # of a group
    per: int  # tiles for each program
    splits: int  # programs for each group
    pieces: tuple[Piece, ...]
    warps: int
    held: bool  # whether a tile holds all values of a channel
    by_last: bool = False  # whether the program that comes last does the second sweep of its group

    @property
    def steady(self) -> bool:
        """True if a lane meets a value in every tile, except perhaps in the last one."""
        return self.blocks == 1

    @property
    def joins(self) -> bool:
        """True if the programs of the second launch put the partial results together themselves."""
        return self.splits <= (JOINED_LAST if self.view.last else JOINED)


def view_of(shape: Size | tuple[int, ...], itemsize: int, *, last: bool) -> View:
    """The matrix that a dense (N, C, *spatial) is.

    Args:
        shape: of the tensor.
        itemsize: bytes of a value.
        last: whether the channels come last in memory.
    """
    samples, channels, places = shape[0], shape[1], math.prod(shape[2:])
    if last:
        return View(samples * places, channels, channels, True, itemsize)
    return View(samples, channels, places, False, itemsize)


def plan(
    view: View, device: Device, settings: Settings, *, streams: int, whole: bool = True, twice: bool = True
) -> Plan:
    """The plan by which the tensor is cut.

    Args:
        view: of the tensor, which has a value.
        device: where it lies.
        settings: what may be tuned.
        streams: tensors that both sweeps read: x in the forward, dy and x in the backward.
        whole: whether one launch may do all of it.
        twice: whether there are two sweeps; of one, nothing would be found in the cache, and it is one piece.

    Example:
        >>> h200 = Device("NVIDIA H200", 132, 60 << 20)
        >>> images = plan(view_of((256, 256, 56, 56), 4, last=False), h200, Settings(), streams=1)
        >>> len(images.pieces), images.pieces[0], images.splits, images.held
        (32, Piece(first=0, groups=8), 60, False)
        >>> plan(view_of((32, 2048, 7, 7), 4, last=False), h200, Settings(), streams=1).held
        True
        >>> few = plan(view_of((32, 16, 28, 28), 4, last=False), h200, Settings(), streams=1)
        >>> few.by_last, few.splits
        (True, 16)
    """
    if whole and (found := _held(view, settings)) is not None:
        return found
    if whole and twice and (across := _alone(view, settings, streams)) is not None:
        groups = -(-view.channels // across) if view.last else view.channels
        most = JOINED_LAST if view.last else JOINED
        return _swept(view, device, settings, across, (Piece(0, groups),), most)._replace(by_last=True)
    across = _across(view)
    groups = -(-view.channels // across) if view.last else view.channels
    if not twice:
        return _swept(view, device, settings, across, (Piece(0, groups),))
    in_group = across if view.last else 1

    def cut(launches: int, most: int = MOST_SPLITS) -> Plan:
        pieces = _pieces(view, groups, in_group, device, settings, streams, settings.launches // launches)
        return _swept(view, device, settings, across, pieces, most)

    two = cut(2)
    if two.joins:
        return two
    few = cut(2, JOINED_LAST if view.last else JOINED)
    # Of a piece: a third one only where partial results are put together apart.
    return few if _is_small(view) and few.per <= LITTLE else cut(3)


def _swept(
    view: View, device: Device, settings: Settings, across: int, pieces: tuple[Piece, ...], most: int = MOST_SPLITS
) -> Plan:
    """The plan for launches in which every program goes through tiles of its own."""
    down = min(max(settings.elements // across, 1), power_of_two(view.rows))
    blocks = 1 if view.last else -(-view.width // across)
    tiles = blocks * -(-view.rows // down)
    wanted = -(-device.processors * settings.programs // pieces[0].groups)
    per = -(-tiles // min(wanted, tiles, most))
    splits = -(-tiles // per)
    return Plan(view, down, across, blocks, tiles, per, splits, pieces, settings.warps, False)


def power_of_two(number: int) -> int:
    """The power of two at or above it."""
    return 1 << max(number - 1, 0).bit_length()


def parts(splits: int) -> int:
    """The number of partial results that a kernel is compiled for, where there are so many.

    Example:
        >>> parts(1), parts(8), parts(60)
        (8, 8, 128)
    """
    return next(number for number in PARTS if number >= splits)


def _across(view: View) -> int:
    """The columns of a tile: whole lines of memory, and few that lie behind the end of a row."""
    if view.last:
        return max(min(power_of_two(view.width), LINE // view.itemsize), SMALLEST)
    if view.width <= 1024:
        return max(power_of_two(view.width), SMALLEST)
    return next(
        (across for across in (1024, 512) if -(-view.width // across) * across <= view.width * 9 // 8),
        256,
    )


def _held(view: View, settings: Settings) -> Plan | None:
    """The plan for one launch, or None where a tile cannot hold a channel."""
    across = max(power_of_two(view.width), SMALLEST)
    if view.last:
        across = max(min(across, LINE // 2 // view.itemsize), SMALLEST)
    down = power_of_two(view.rows)
    of_warp = WARP * min(max(HELD_VECTORS * view.vector, LEAST_HELD), MOST_HELD)
    if down * across > min(settings.held, HELD_WARPS * of_warp):
        return None
    groups = -(-view.channels // across) if view.last else view.channels
    warps = max(down * across // of_warp, 1)
    return Plan(view, down, across, 1, 1, 1, 1, (Piece(0, groups),), warps, True)


def _alone(view: View, settings: Settings, streams: int) -> int | None:
    """The columns of a tile where one program may do a group's second sweep alone, or None."""
    of_column = view.values * view.itemsize * streams
    if not _is_small(view):
        return None
    across = _across(view)
    if not view.last:
        return across if of_column <= settings.alone and view.channels <= MOST_COUNTERS else None
    while across * of_column > settings.alone and across > max(SMALLEST, SECTOR // view.itemsize):
        across //= 2
    few = -(-view.channels // across) <= MOST_COUNTERS
    return across if few and across * of_column <= settings.alone else None


def _is_small(view: View) -> bool:
    return view.values * view.channels * view.itemsize < SMALL


def _pieces(
    view: View, groups: int, in_group: int, device: Device, settings: Settings, streams: int, most: int
) -> tuple[Piece, ...]:
    """Groups of channels whose tensors fit their share of the cache, or so many more that there are ``most`` pieces."""
    room = int(device.cache * settings.share)
    bytes_of_group = view.values * in_group * view.itemsize * streams
    together = max(room // max(bytes_of_group, 1), -(-groups // max(most, 1))) if room else groups
    if view.last and bytes_of_group > room:
        together = groups  # not even one group fits: the second sweep runs in reverse, and finds the tail
    return tuple(Piece(first, min(together, groups - first)) for first in range(0, groups, together))
