"""The report of ``swap``, layer by layer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Swap:
    """The change of one layer.

    Args:
        was: the name of its class before.
        became: the name of its class now; where two libraries call it the same, with the library in front.
        words: what else is to be known of it, for example what differs in training; empty where that is nothing.

    Example:
        >>> print(Swap("BatchNorm2d", "GroupNorm", "4 groups of 2 channels"))
        BatchNorm2d -> GroupNorm: 4 groups of 2 channels
    """

    was: str
    became: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.was} -> {self.became}" + f": {self.words}" * bool(self.words)


@dataclass(frozen=True)
class SwapReport:
    """The report of ``swap``; every normalization layer of the model stands in exactly one of the first two.

    Args:
        swapped: the layer's name -> what became of it.
        skipped: the layer's name -> why it is as it was.
        not_reached: layers that were swapped and that no batch of ``calibrate`` came to; they start uncalibrated.
        output_change: how far the model's output for the batches moved, the root of the mean square of the difference
            over that of the output before; NaN where no batches were given.
        uncalibrated_change: the same before the swapped-in layers were calibrated; NaN where none was.
        to: what the layers were to become.
        model: the model that is swapped: the one that was given wherever that is possible.
        also: what else was changed, so that the model no longer needs normwise: what ``fold`` had left of fused layers,
            and the hooks of ``save_memory``.

    Example:
        >>> print(SwapReport({"bn1": Swap("BatchNorm2d", "GroupNorm")}, {"bn2": "it is lazy"}, (), 0.25, 0.5, "group"))
        1 of 2 normalization layers swapped, 1 skipped
          swapped      bn1: BatchNorm2d -> GroupNorm
          skipped      bn2: it is lazy
        the model's output changed by 25 % of its size (by 50 % before the layers were calibrated)
    """

    swapped: Mapping[str, Swap]
    skipped: Mapping[str, str]
    not_reached: tuple[str, ...] = ()
    output_change: float = float("nan")
    uncalibrated_change: float = float("nan")
    to: str = ""
    model: Any = field(default=None, compare=False, repr=False)
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.swapped) + len(self.skipped)
        if total == 0 and not self.also:
            return "nothing swapped: the model has no normalization layer"
        first = f"{len(self.swapped)} of {total} normalization layers swapped"
        first = "the model has no normalization layer" if total == 0 else first
        first += f", {len(self.skipped)} skipped" * bool(self.skipped)
        first += f", {len(self.not_reached)} not reached" * bool(self.not_reached)
        lines = [first]
        lines += [f"  swapped      {name or '(the model)'}: {swap}" for name, swap in self.swapped.items()]
        lines += [f"  skipped      {name or '(the model)'}: {why}" for name, why in self.skipped.items()]
        lines += [f"  not reached  {name or '(the model)'}: it starts uncalibrated" for name in self.not_reached]
        lines += [f"  also         {what}" for what in self.also]
        if not math.isnan(self.output_change):
            last = f"the model's output changed by {_percent(self.output_change)} of its size"
            if not math.isnan(self.uncalibrated_change):
                last += f" (by {_percent(self.uncalibrated_change)} before the layers were calibrated)"
            lines.append(last)
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as JSON, without the model; what is no finite number is null there.

        Example:
            >>> SwapReport({}, {}).to_json()[:40]
            '{"swapped": {}, "skipped": {}, "not_reac'
        """
        swapped = {name: asdict(swap) for name, swap in self.swapped.items()}
        found = {"swapped": swapped, "skipped": dict(self.skipped), "not_reached": list(self.not_reached)}
        found["also"] = list(self.also)
        changes = {"output_change": self.output_change, "uncalibrated_change": self.uncalibrated_change}
        numbers = {name: value if math.isfinite(value) else None for name, value in changes.items()}
        return json.dumps({**found, **numbers, "to": self.to})


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
