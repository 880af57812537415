"""The report of ``freeze`` and ``unfreeze``, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

STATISTICS = "statistics"
AFFINE = "affine parameters"


@dataclass(frozen=True)
class FreezeReport:
    """The report of ``freeze`` or ``unfreeze``; every normalization layer stands in exactly one of the first three.

    Args:
        layers: the layer's name -> what of it was frozen or unfrozen, ``"statistics"`` or ``"affine parameters"`` or
            both.
        skipped: the layer's name -> why it is as it was.
        not_reached: places of normalization that is code and no layer, with the reason.
        partly: for layers with one part that was changed and one that was not: the layer's name -> why not.
        deed: ``"frozen"`` or ``"unfrozen"``.
        remark: what is left for the caller to do; empty where that is nothing.

    Example:
        >>> print(FreezeReport({"bn1": ("statistics", "affine parameters")}, {"bn2": "it was not asked for"}, {}))
        1 of 2 normalization layers frozen, 1 skipped
          frozen       bn1: statistics and affine parameters
          skipped      bn2: it was not asked for
    """

    layers: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, str]
    not_reached: Mapping[str, str]
    partly: Mapping[str, str] = field(default_factory=dict)
    deed: str = "frozen"
    remark: str = ""

    def __str__(self) -> str:
        total = len(self.layers) + len(self.skipped) + len(self.not_reached)
        if total == 0:
            return f"nothing {self.deed}: the model has no normalization layer"
        first = f"{len(self.layers)} of {total} normalization layers {self.deed}"
        first += f", {len(self.skipped)} skipped" * bool(self.skipped)
        first += f", {len(self.not_reached)} not reached" * bool(self.not_reached)
        lines = [first]
        for name, parts in self.layers.items():
            but = f", nothing else: {self.partly[name]}" if name in self.partly else ""
            lines.append(f"  {self.deed:<12} {name or '(the model)'}: {' and '.join(parts)}{but}")
        lines += [f"  skipped      {name or '(the model)'}: {why}" for name, why in self.skipped.items()]
        lines += [f"  not reached  {name or '(the model)'}: {why}" for name, why in self.not_reached.items()]
        return "\n".join([*lines, *[self.remark] * bool(self.remark)])

    def to_json(self) -> str:
        """The report as JSON.

        Example:
            >>> FreezeReport({}, {}, {}).to_json()[:30]
            '{"layers": {}, "skipped": {}, '
        """
        return json.dumps(asdict(self))
