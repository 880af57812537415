"""The report of ``fold``: what it did, layer by layer, and how far the outputs moved."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Folded:
    """The layer that a batch norm was folded into.

    Args:
        into: the layer that does its work now.
        growth: how many times the largest weight of that layer is what it was; much growth costs digits in low
            precision and in quantization.
        stays: what the batch norm did besides and still does in its place, for example ``"relu"``, or ``"add, relu"``.
        assumed: what this rests on and no data have shown.
    """

    into: str
    growth: float
    stays: str = ""
    assumed: str = ""


@dataclass(frozen=True)
class FoldReport:
    """The report of ``fold``; every batch norm of the model stands in exactly one of the first three.

    Args:
        folded: the layer's name -> where it went.
        skipped: the layer's name -> why it is as it was.
        not_reached: places of batch normalization that is code and no layer, with the reason.
        output_error: the largest difference of an output on the data, over the largest value of that output; NaN
            without data.
        batches: how many batches that was measured on.
        samples: how many samples were in them.
        model: the folded model: in PyTorch the one that was given, in Keras a new one.

    Example:
        >>> print(FoldReport({"bn1": Folded("conv1", 1.7, "relu")}, {"bn2": "it is shared"}, {}, 3e-7, 1, 32))
        1 of 2 batch norms folded, 1 skipped; largest relative error of an output 3e-07 on 32 samples in 1 batch
          folded       bn1: into conv1, whose largest weight is now 1.7 times as large; its relu stays
          skipped      bn2: it is shared
    """

    folded: Mapping[str, Folded]
    skipped: Mapping[str, str]
    not_reached: Mapping[str, str]
    output_error: float = math.nan
    batches: int = 0
    samples: int = 0
    model: Any = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        total = len(self.folded) + len(self.skipped) + len(self.not_reached)
        if total == 0:
            return "nothing folded: the model has no batch norm"
        first = f"{len(self.folded)} of {total} batch norms folded"
        first += f", {len(self.skipped)} skipped" * bool(self.skipped)
        first += f", {len(self.not_reached)} not reached" * bool(self.not_reached)
        if self.batches:
            first += f"; largest relative error of an output {self.output_error:.2g} on {self.samples} samples in "
            first += f"{self.batches} batch{'' if self.batches == 1 else 'es'}"
        lines = [first]
        for name, done in self.folded.items():
            grown = f"whose largest weight is now {done.growth:.3g} times as large"
            stays = f"; its {done.stays} stays" * bool(done.stays)
            assumed = f"; assumed, for no data were given: {done.assumed}" * bool(done.assumed)
            lines.append(f"  folded       {name or '(the model)'}: into {done.into}, {grown}{stays}{assumed}")
        lines += [f"  skipped      {name or '(the model)'}: {why}" for name, why in self.skipped.items()]
        lines += [f"  not reached  {name or '(the model)'}: {why}" for name, why in self.not_reached.items()]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as JSON, without the model; what is no finite number is null there.

        Example:
            >>> FoldReport({}, {}, {}).to_json()[:60]
            '{"folded": {}, "skipped": {}, "not_reached": {}, "output_err'
        """
        fields: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "model"}
        fields["folded"] = {name: asdict(done) for name, done in self.folded.items()}
        for done in (fields, *fields["folded"].values()):
            for name, value in done.items():
                if isinstance(value, float) and not math.isfinite(value):
                    done[name] = None
        return json.dumps(fields)
