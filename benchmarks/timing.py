"""Times in turn, so that a moment in which the machine is slow meets everyone."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]
Clock = Callable[[Call, int], float]  # seconds per call of so many calls in a row
BLOCK = 1e-3  # seconds: what is shorter is called several times in a row, because the clock and the loop cost too
CALM = 1.0  # milliseconds of a hand-over, above which a machine is too busy to be measured on
FEWEST = 5  # pairs, however long they take


def hand_over(rounds: int = 40) -> float:
    """Milliseconds of a small addition on all threads, the 90th percentile.

    Some hundredths on a machine that has nothing else to do. Where other processes want the processors, a thread that
    is waited for gets its turn only after whole slices of the scheduler, 4 to 16 ms, and no ratio means anything.
    """
    import torch

    x = torch.ones(200_000)
    x.add(1)
    return 1e3 * sorted(seconds_of(lambda: x.add(1), 1) for _ in range(rounds))[rounds * 9 // 10]


def seconds_of(call: Call, in_a_row: int) -> float:
    """The ``Clock`` on the wall."""
    return _by(time.perf_counter, call, in_a_row)


def seconds_of_thread(call: Call, in_a_row: int) -> float:
    """The ``Clock`` of this thread's processor, which other processes do not move."""
    return _by(time.thread_time, call, in_a_row)


def _by(now: Callable[[], float], call: Call, in_a_row: int) -> float:
    start = now()
    for _ in range(in_a_row):
        call()
    return (now() - start) / in_a_row


def in_turn(
    calls: Mapping[str, Call], *, rounds: int, seconds: float, clock: Clock = seconds_of
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Times all of them in every round, each round in an order of its own: a slow moment of the machine meets everyone.

    Who comes behind a peer that calls the same PyTorch operators finds their code in the processor's caches. In orders
    drawn by chance everyone comes behind everyone equally often.

    Args:
        calls: what is timed, by name; what a call returns is dropped within the time.
        rounds: at most.
        seconds: after them no new round begins, if there are ``FEWEST``.
        clock: what takes the times.

    Returns:
        Seconds per call of every round, and how many calls in a row make one measurement, by name.
    """
    names, order = list(calls), random.Random(0)
    for _ in range(2):  # the first calls compile, map memory and wake threads
        for call in calls.values():
            call()
    in_a_row = {name: math.ceil(min(500.0, BLOCK / max(clock(call, 1), 1e-9))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in names}
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for n in range(rounds):
            for name in order.sample(names, len(names)):
                times[name].append(clock(calls[name], in_a_row[name]))
            if n + 1 >= FEWEST and time.perf_counter() - start > seconds:
                break
    finally:
        if enabled:
            gc.enable()
    return times, in_a_row


def in_turn_by_both_clocks(calls: Mapping[str, Call], *, rounds: int) -> tuple[dict[str, list[float]], ...]:
    """Times calls that are long, one by one: seconds on the wall, and seconds of the processors of this process.

    Other processes move the first more than the second, which counts no wait. Nothing is called before it is timed.

    Args:
        calls: what is timed, by name, in every round in an order of its own.
        rounds: how many.
    """
    order = random.Random(0)
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processor: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in order.sample([*calls], len(calls)):
            began = time.perf_counter(), time.process_time()
            calls[name]()
            wall[name].append(time.perf_counter() - began[0])
            processor[name].append(time.process_time() - began[1])
    return wall, processor
