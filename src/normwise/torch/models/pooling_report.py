"""The report of ``pool_statistics``, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from normwise.recalibration.report import Movement, finite, layer_lines


@dataclass(frozen=True)
class PoolReport:
    """The report of ``pool_statistics``; every layer with running statistics is in exactly one of its first two fields.

    Args:
        pooled: the layer's name -> how far this process's statistics moved.
        skipped: the layer's name -> why its statistics are as they were.
        processes: how many had a part in it.

    Example:
        >>> print(PoolReport({"bn1": Movement(0.5, 1.25)}, {"bn2": "no process has trained it yet"}, 2))
        1 of 2 layers pooled over 2 processes
          pooled        bn1: moved by 0.5 standard deviations, by 1.25 in one channel
          skipped       bn2: no process has trained it yet
    """

    pooled: Mapping[str, Movement]
    skipped: Mapping[str, str]
    processes: int

    def __str__(self) -> str:
        total = len(self.pooled) + len(self.skipped)
        if total == 0:
            return "nothing pooled: the model has no layer with running statistics"
        first = f"{len(self.pooled)} of {total} layers pooled over {self.processes} processes"
        return "\n".join([first, *layer_lines("pooled", self.pooled, self.skipped, ())])

    def to_json(self) -> str:
        """The report as JSON; what is no finite number is null there.

        Example:
            >>> PoolReport({}, {}, 2).to_json()
            '{"pooled": {}, "skipped": {}, "processes": 2}'
        """
        return json.dumps(finite(asdict(self)))
