"""Two ways in turn, in the time of the processor: the median of the ratios of pairs, with their quartiles."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

Call = Callable[[], object]
APART = 1.3
"""Quartiles that are further apart than this factor say nothing; such a pair is measured once more."""
FEWEST, MOST = 7, 25


def paired(before: Call, after: Call, *, seconds: float = 2.0) -> dict[str, Any]:
    """The ratio of the time of ``after`` to the time of ``before``.

    The threads of this process are timed, not the clock on the wall, because other processes on the machine disturb
    that less. The order changes with every pair.

    Args:
        before: one call of what is compared with.
        after: one call of what is measured.
        seconds: after them no pair begins, if there are enough.

    Returns:
        ``ratio``, ``low`` and ``high`` (its quartiles), ``pairs``, and the medians ``before_ms`` and ``after_ms``;
        ``noisy`` where the quartiles are too far apart after a repetition too.
    """
    found = _measure(before, after, seconds)
    if found["high"] > APART * found["low"]:
        found = _measure(before, after, 2 * seconds)
    return {**found, "noisy": found["high"] > APART * found["low"]}


def _measure(before: Call, after: Call, seconds: float) -> dict[str, Any]:
    for call in (before, after):  # the first call maps memory and chooses kernels
        call()
    times: dict[int, list[float]] = {0: [], 1: []}
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        while len(times[0]) < MOST and (len(times[0]) < FEWEST or time.perf_counter() - start < seconds):
            turn = len(times[0]) % 2
            for which in (turn, 1 - turn):
                times[which].append(_seconds((before, after)[which]))
    finally:
        if enabled:
            gc.enable()
    ratios = [b / a for a, b in zip(times[0], times[1], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(median, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "pairs": len(ratios),
        "before_ms": round(1e3 * statistics.median(times[0]), 2),
        "after_ms": round(1e3 * statistics.median(times[1]), 2),
    }


def _seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return max(time.process_time() - start, 1e-9)
