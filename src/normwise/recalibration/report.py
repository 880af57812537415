"""The report of ``recalibrate``, layer by layer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FEW = 12
"""The number of layers that are printed at most, those that moved furthest first."""
ALIKE = 2
"""More layers than these, all left for the same reason, are named by the first of them."""


@dataclass(frozen=True)
class Movement:
    """The movement of a layer's statistics, in standard deviations: the larger of mean and logarithm of the deviation.

    Args:
        typical: root of the mean square over the channels.
        largest: of the channel that moved furthest.
        not_finite: how many calls had a channel with NaN or infinity in it, which did not enter.
    """

    typical: float
    largest: float
    not_finite: int = 0

    @classmethod
    def of(cls, far: Any, not_finite: int = 0) -> Movement:
        """The movement from how far each channel moved, an array or tensor of shape (C,)."""
        return cls(float((far * far).mean() ** 0.5), float(far.max()), not_finite)


def counted(samples: int, batches: int) -> str:
    """Samples and batches, in words.

    Example:
        >>> counted(200, 4), counted(1, 1)
        ('200 samples in 4 batches', '1 sample in 1 batch')
    """
    return f"{samples} sample{'s' * (samples != 1)} in {batches} batch{'es' * (batches != 1)}"


def left_out(moved: Mapping[str, Movement], batches: int) -> str:
    """The number of batches that did not enter a layer's statistics, as the end of a sentence; empty where all did.

    Args:
        moved: the layer's name -> how far its statistics moved.
        batches: how many there were.

    Example:
        >>> left_out({"bn1": Movement(0.5, 1.25, 1), "bn2": Movement(0.5, 1.25)}, 5)
        ', 1 of which held NaN or infinity and did not enter wherever it did'
        >>> left_out({"bn1": Movement(0.5, 1.25)}, 5)
        ''
    """
    number = min(max((movement.not_finite for movement in moved.values()), default=0), batches)
    return f", {number} of which held NaN or infinity and did not enter wherever it did" if number else ""


def layer_lines(
    deed: str, moved: Mapping[str, Movement], skipped: Mapping[str, str], not_reached: Sequence[str]
) -> list[str]:
    """A line for each layer, or for those that moved furthest.

    Args:
        deed: what was done to those that moved.
        moved: the layer's name -> how far its statistics moved.
        skipped: the layer's name -> why its statistics are as they were.
        not_reached: layers that no batch came to.

    Example:
        >>> layer_lines("adapted", {"bn1": Movement(0.5, 1.25)}, {}, ())
        ['  adapted       bn1: moved by 0.5 standard deviations, by 1.25 in one channel']
    """
    lines = []
    furthest = sorted(moved.items(), key=lambda item: -item[1].largest)
    for name, movement in furthest[:FEW]:
        words = f"moved by {movement.typical:.3g} standard deviations, by {movement.largest:.3g} in one channel"
        if not math.isfinite(movement.largest):
            words = "had statistics that were not finite"
        if movement.not_finite:
            words += f"; {movement.not_finite} of its calls held NaN or infinity, and such channels were left out"
        lines.append(f"  {deed:<13} {name or '(the model)'}: {words}")
    if len(furthest) > FEW:
        lines.append(f"  {deed:<13} {len(furthest) - FEW} more, which moved less")
    lines += [f"  skipped       {name or '(the model)'}: {why}" for name, why in skipped.items()]
    lines += [f"  not reached   {name or '(the model)'}: its statistics are as they were" for name in not_reached]
    return lines


@dataclass(frozen=True)
class RecalibrateReport:
    """The report of ``recalibrate``; every batch norm of the model stands in exactly one of its first three fields.

    Args:
        recalibrated: the layer's name -> how far its statistics moved.
        skipped: the layer's name -> why its statistics are as they were.
        not_reached: layers that no batch came to; their statistics are as they were.
        batches: how many were used, on all processes together.
        samples: how many were in them, counted along the first axis of the first tensor of each.
        stopped_early: whether the standard error was small enough before the data were at their end.
        standard_error: of all but a few channels of the least known layer, in standard deviations; NaN where it was
            not asked for or there were fewer than two batches.
        passes: how often the data were gone through, in part or to the end.
        tolerance: the standard error that was asked for; None where none was.
        in_step: whether all batches went through the model side by side, one forward for each in the last pass, with
            one more of the first batch before it and one after it.
        why_not_in_step: a clause that says why they did not; an empty string where they did, or nobody asked for it.

    Example:
        >>> print(RecalibrateReport({"bn1": Movement(0.5, 1.25)}, {"bn2": "it is frozen"}, ("bn3",), 4, 200))
        1 of 3 batch norms recalibrated with 200 samples in 4 batches
          recalibrated  bn1: moved by 0.5 standard deviations, by 1.25 in one channel
          skipped       bn2: it is frozen
          not reached   bn3: its statistics are as they were
    """

    recalibrated: Mapping[str, Movement]
    skipped: Mapping[str, str]
    not_reached: tuple[str, ...]
    batches: int
    samples: int
    stopped_early: bool = False
    standard_error: float = float("nan")
    passes: int = 1
    tolerance: float | None = None
    in_step: bool = False
    why_not_in_step: str = ""

    @property
    def tolerance_reached(self) -> bool | None:
        """True if the statistics are known as well as was asked for; None where that was not asked for."""
        return self.standard_error <= self.tolerance if self.tolerance else None

    def in_a_sentence(self) -> str:
        """The same as one clause, for an error.

        Example:
            >>> RecalibrateReport({}, {"1": "it is frozen"}, (), 4, 200).in_a_sentence()
            "0 of 1 batch norms recalibrated with 200 samples in 4 batches; layer '1' skipped: it is frozen"
        """
        return clause(str(self), self.skipped, self.not_reached)

    def __str__(self) -> str:
        total = len(self.recalibrated) + len(self.skipped) + len(self.not_reached)
        if total == 0:
            return "nothing recalibrated: the model has no batch norm"
        lines = [f"{len(self.recalibrated)} of {total} batch norms recalibrated with {self._data()}"]
        lines += layer_lines("recalibrated", self.recalibrated, self.skipped, self.not_reached)
        # What the caller can do something about.
        if "memory allows" in self.why_not_in_step or "waited for another" in self.why_not_in_step:
            lines.append(f"  layer by layer, in {self.passes} passes: {self.why_not_in_step}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as JSON; what is no finite number is null there.

        Example:
            >>> RecalibrateReport({}, {}, (), 0, 0).to_json()[:40]
            '{"recalibrated": {}, "skipped": {}, "not'
        """
        return json.dumps(finite({**asdict(self), "tolerance_reached": self.tolerance_reached}))

    def _data(self) -> str:
        words = counted(self.samples, self.batches) + left_out(self.recalibrated, self.batches)
        if self.stopped_early:
            words += f", stopped early at a standard error of {self.standard_error:.2g} standard deviations"
        elif self.tolerance_reached is False:
            words += f"; the tolerance of {self.tolerance:g} was not reached: "
            if math.isfinite(self.standard_error):
                words += f"the standard error is {self.standard_error:.2g} standard deviations"
            else:
                words += "a standard error needs two batches or more"
        return words


def clause(report: str, skipped: Mapping[str, str], not_reached: Sequence[str]) -> str:
    """The first line of a report, and why each layer is as it was, on one line.

    Args:
        report: in lines.
        skipped: the layer's name -> why its statistics are as they were.
        not_reached: layers that no batch came to.

    Example:
        >>> clause("nothing adapted", {}, ("a", "b"))
        "nothing adapted; layer 'a' not reached by any batch; layer 'b' not reached by any batch"
        >>> clause("nothing adapted", dict.fromkeys("abc", "frozen"), ())
        "nothing adapted; layer 'a' and 2 more skipped: frozen"
    """
    named = [*skipped.items(), *((name, None) for name in not_reached)]
    parts, (first, *_) = [], report.splitlines() or [""]
    reasons = {why for _, why in named}
    if len(named) > ALIKE and len(reasons) == 1 and None not in reasons:
        return f"{first}; layer {named[0][0]!r} and {len(named) - 1} more skipped: {reasons.pop()}"
    for name, why in named[:FEW]:
        layer = f"layer {name!r}" if name else "the model itself"
        parts.append(f"{layer} skipped: {why}" if why else f"{layer} not reached by any batch")
    parts += [f"{len(named) - FEW} more"] * (len(named) > FEW)
    return "; ".join([first, *parts])


def finite(value: Any) -> Any:
    """The same with None in the place of every number that JSON has no word for.

    Example:
        >>> finite({"a": float("inf"), "b": 1.5})
        {'a': None, 'b': 1.5}
    """
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
