"""Times in turn, so that a moment in which the machine is slow meets everyone."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping

Call = Callable[[], object]
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
    return 1e3 * sorted(_seconds(lambda: x.add(1), 1) for _ in range(rounds))[rounds * 9 // 10]


def in_turn(calls: Mapping[str, Call], *, rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Times all of them in every round, each round in an order of its own: a slow moment of the machine meets everyone.

    Who comes behind a peer that calls the same PyTorch operators finds their code in the processor's caches. In orders
    drawn by chance everyone comes behind everyone equally often.

    Args:
        calls: what is timed, by name; what a call returns is dropped within the time.
        rounds: at most.
        seconds: after them no new round begins, if there are ``FEWEST``.

    Returns:
        Seconds per call of every round, and how many calls in a row make one measurement, by name.
    """
    names, order = list(calls), random.Random(0)
    for _ in range(2):  # the first calls compile, map memory and wake threads
        for call in calls.values():
            call()
    in_a_row = {name: math.ceil(min(500.0, BLOCK / max(_seconds(call, 1), 1e-9))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in names}
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for n in range(rounds):
            for name in order.sample(names, len(names)):
                times[name].append(_seconds(calls[name], in_a_row[name]))
            if n + 1 >= FEWEST and time.perf_counter() - start > seconds:
                break
    finally:
        if enabled:
            gc.enable()
    return times, in_a_row


def _seconds(call: Call, in_a_row: int) -> float:
    start = time.perf_counter()
    for _ in range(in_a_row):
        call()
    return (time.perf_counter() - start) / in_a_row
