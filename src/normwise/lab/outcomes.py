"""The measurements of all trials of an experiment, looked up by what the trials have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class Outcomes:
    """Trials and what each of them measured.

    Args:
        trials: dataclasses with a ``seed``.
        outcomes: one per trial, numbers and lists by name.

    Example:
        >>> from types import SimpleNamespace as Trial
        >>> trials = [Trial(seed=1, rate=0.1), Trial(seed=0, rate=0.1), Trial(seed=0, rate=0.5)]
        >>> both = Outcomes(trials, [{"accuracy": 0.9}, {"accuracy": 0.8}, {"accuracy": 0.1}])
        >>> both.where(rate=0.1).array("accuracy").tolist()
        [0.8, 0.9]
    """

    def __init__(self, trials: Sequence[Any], outcomes: Sequence[dict[str, Any]]) -> None:
        pairs = sorted(zip(trials, outcomes, strict=True), key=lambda pair: int(pair[0].seed))
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        return iter(self._pairs)

    def where(self, **wanted: Any) -> Outcomes:
        """Those whose trial has these values, in the order of their seeds, so that two arms pair up by position.

        Raises:
            LookupError: there is none.
        """
        kept = [pair for pair in self._pairs if all(getattr(pair[0], name) == wanted[name] for name in wanted)]
        if not kept:
            raise LookupError(f"no trial has {wanted}.")
        return Outcomes([trial for trial, _ in kept], [outcome for _, outcome in kept])

    def array(self, name: str) -> npt.NDArray[np.float64]:
        """A measured number or list of every trial: shape (trials, ...); a missing number is NaN."""
        return np.array([outcome[name] for _, outcome in self._pairs], dtype=np.float64)
