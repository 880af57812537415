"""The report of ``adapt``, layer by layer, which can undo what it reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from normwise.errors import NormwiseError
from normwise.recalibration.report import Movement, clause, counted, finite, layer_lines, left_out


@dataclass(frozen=True)
class AdaptReport:
    """The report of ``adapt``; every batch norm of the model stands in exactly one of its first three fields.

    As a context manager it undoes the adaptation at the end of the block.

    Args:
        adapted: the layer's name -> how far its statistics moved.
        skipped: the layer's name -> why its statistics are as they were.
        not_reached: layers that no batch came to; their statistics are as they were.
        batches: how many were used, on all processes together.
        samples: how many were in them.
        prior: how many samples the statistics before were worth.

    Example:
        >>> print(AdaptReport({"bn1": Movement(0.5, 1.25)}, {}, ("bn3",), 4, 200, 16.0))
        1 of 2 batch norms adapted to 200 samples in 4 batches, with a prior of 16
          adapted       bn1: moved by 0.5 standard deviations, by 1.25 in one channel
          not reached   bn3: its statistics are as they were
    """

    adapted: Mapping[str, Movement]
    skipped: Mapping[str, str]
    not_reached: tuple[str, ...]
    batches: int
    samples: int
    prior: float
    _restorers: list[Callable[[], None]] = field(default_factory=list, repr=False, compare=False)

    def undo(self) -> None:
        """Give every layer the statistics that it had before, byte for byte, wherever the model is by now.

        Raises:
            NormwiseError: it was undone already.
        """
        if self.adapted and not self._restorers:
            raise NormwiseError("this adaptation was undone already: call adapt again for another.")
        while self._restorers:
            self._restorers.pop()()

    def remember(self, restore: Callable[[], None]) -> None:
        """Keep a function that gives some layer what it has now; ``undo`` calls it."""
        self._restorers.append(restore)

    def __enter__(self) -> AdaptReport:
        return self

    def __exit__(self, *_: object) -> None:
        if self._restorers:
            self.undo()

    def __str__(self) -> str:
        total = len(self.adapted) + len(self.skipped) + len(self.not_reached)
        if total == 0:
            return "nothing adapted: the model has no batch norm"
        first = f"{len(self.adapted)} of {total} batch norms adapted to {counted(self.samples, self.batches)}"
        first += left_out(self.adapted, self.batches)
        lines = layer_lines("adapted", self.adapted, self.skipped, self.not_reached)
        return "\n".join([f"{first}, with a prior of {self.prior:g}", *lines])

    def in_a_sentence(self) -> str:
        """The same as one clause, for an error.

        Example:
            >>> AdaptReport({}, {}, (), 0, 0, 16.0).in_a_sentence()
            'nothing adapted: the model has no batch norm'
        """
        return clause(str(self), self.skipped, self.not_reached)

    def to_json(self) -> str:
        """The report as JSON; what is no finite number is null there.

        Example:
            >>> AdaptReport({}, {}, (), 0, 0, 16.0).to_json()
            '{"adapted": {}, "skipped": {}, "not_reached": [], "batches": 0, "samples": 0, "prior": 16.0}'
        """
        fields: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "_restorers"}
        fields["adapted"] = {name: asdict(moved) for name, moved in self.adapted.items()}
        return json.dumps(finite(fields))
