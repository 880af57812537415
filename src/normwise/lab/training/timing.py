"""How long something takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_seconds(deed: Callable[[], object], repeats: int) -> float:
    """The median time of a deed that is done so many times."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        deed()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)
