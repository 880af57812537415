"""The work of a framework in a comparison: build the user's model with an arm's normalization, train and examine it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from normwise.errors import NormwiseError
from normwise.lab.comparison.arms import AS_BUILT, OWN, WITH_STATISTICS, Arm, Trial
from normwise.lab.comparison.rows import Array, Rows

STATISTICS = {
    "running": "running averages of training",
    "recalibrated": "statistics of the training rows, recalibrated",
    "batch": "statistics of the test batch: not usable for single samples",
}
"""The statistics at inference, where a layer has any; ``"none"`` where it has not."""
FEW = 8
"""Batches that statistics are recalibrated on while arms are ranked."""
MANY = 64
"""The same for the last comparison."""
TAKES = "let DATA give inputs of the shape and dtype that MODEL takes"
"""The remedy where a model does not take the rows."""
WARM_UP = Trial(Arm(OWN, AS_BUILT, 1e-3, 8), 2, 0)
"""A trial that does not count: the first training of a process takes longer than the others."""
EXAMINED = 256
"""Rows per batch of an examination."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Args:
        validation: inference statistics -> mean score on the validation rows; None where it was not finite.
        test: inference statistics -> score of every test row; of a final trial.
        per_step: seconds of a step, as far as the time of a trial grows with its steps.
        error: why it was not trained, or nothing.
    """

    validation: dict[str, float | None] = field(default_factory=dict)
    test: dict[str, list[float] | None] = field(default_factory=dict)
    per_step: float = 0.0
    error: str = ""

    @property
    def rank(self) -> float:
        """The best score on the validation rows, to sort by; minus infinity where nothing was learned."""
        found = [value for value in self.validation.values() if value is not None]
        return max(found, default=-math.inf)

    def plain(self) -> dict[str, Any]:
        """The outcome as JSON holds it."""
        return asdict(self)


class Trainer(Protocol):
    """The user's model in its framework.

    Attributes:
        framework: with its version, and the backend where it has several.
        where: ``"as built"``, and where else the batch norms can be put.
        remarks: sentences about what cannot be compared.
        fingerprint: plain values that change when the model does.
    """

    framework: str
    where: tuple[str, ...]
    remarks: tuple[str, ...]
    fingerprint: list[Any]

    def train(self, trial: Trial) -> Outcome:
        """Train from scratch and examine.

        Raises:
            NormwiseError: the model cannot be trained so.
        """


def ways(arm: Arm, *, final: bool) -> tuple[str, ...]:
    """The inference statistics that a trial is examined with.

    While arms are ranked it is one: the running averages of a short training are those of its first steps. What
    renormalization makes of a batch depends on its running averages, so that there are no statistics of the batch.
    """
    if arm.normalizer not in WITH_STATISTICS:
        return ("none",)
    if not final:
        return ("recalibrated",)
    return ("running", "recalibrated") if arm.normalizer == "renorm" else tuple(STATISTICS)


class Examination:
    """Collects the scores of one trained model."""

    def __init__(self, rows: Rows, trial: Trial) -> None:
        self._rows, self._trial = rows, trial
        _, self.validation, self.test = rows.split(trial.seed)
        self.outcome = Outcome()

    def note(self, way: str, validation: Array, test: Array | None) -> None:
        """Note the model's outputs on both parts; the second is None unless the trial is final."""
        score = float(np.mean(self._rows.scores(validation, self.validation)))
        self.outcome.validation[way] = score if math.isfinite(score) else None
        if test is not None:
            scores = self._rows.scores(test, self.test)
            self.outcome.test[way] = scores.tolist() if np.isfinite(scores).all() else None


def nothing_learned(trial: Trial, per_step: float) -> Outcome:
    """The outcome of a training whose loss became infinite or NaN."""
    names = ways(trial.arm, final=trial.final)
    return Outcome(dict.fromkeys(names), dict.fromkeys(names) if trial.final else {}, per_step)


def where_remarks(found: dict[str, str | None], choices: tuple[str, ...]) -> tuple[str, ...]:
    """The sentences of the output about the places of batch norms.

    Args:
        found: batch norm -> why it stays where it is, or None if it can be moved.
        choices: what is compared.
    """
    stay = {name: why for name, why in found.items() if why is not None}
    words = "; ".join(f"{name}: {why}" for name, why in [*stay.items()][:3])
    more = f"; and {len(stay) - 3} more" if len(stay) > 3 else ""
    if choices == (AS_BUILT,):
        return (f"Before or after the activation is not compared: {words}{more}.",)
    return (f"{len(stay)} of {len(found)} batch norms stay where they are: {words}{more}.",) if stay else ()


class Batches:
    """Rows of training, pass after pass in a new order each, without the ragged rest of a pass."""

    def __init__(self, train: Array, size: int, seed: int) -> None:
        if size > len(train):
            raise NormwiseError(
                f"a batch of {size} rows is larger than the {len(train)} rows for training: give a smaller batch size."
            )
        self._train, self._size = train, size
        self._generator = np.random.default_rng([2, seed])
        self._left = train[:0]

    def next(self) -> Array:
        """The numbers of the next rows."""
        if len(self._left) < self._size:
            self._left = self._generator.permutation(self._train)
        now, self._left = self._left[: self._size], self._left[self._size :]
        return now


def parts(rows: Array, size: int) -> list[Array]:
    """The rows in order, some at a time; a single one that is left goes with those before it."""
    return np.split(rows, [*range(size, len(rows) - 1, size)])


@contextmanager
def in_one_sentence(beginning: str, remedy: str = "") -> Iterator[None]:
    """Turn what a model raises into one sentence.

    Args:
        beginning: of the sentence, what could not be done.
        remedy: what the user may do about it.

    Raises:
        NormwiseError: something failed.
    """
    try:
        yield
    except Exception as error:
        text = re.sub(r"\x1b\[\d*m", "", str(error))  # Keras writes in bold
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        kind = "" if isinstance(error, NormwiseError) else f"{type(error).__name__}: "
        said = " ".join(lines[:3]).rstrip(". ")
        raise NormwiseError(f"{beginning}: {kind}{said}{'; ' * bool(remedy)}{remedy}.") from error
