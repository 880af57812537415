"""The rows that a comparison is made on, their split, and what an output is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from normwise.errors import NormwiseError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """Inputs with targets: whole numbers are classes, others are values to come near to.

    Args:
        inputs: shape (rows, ...), float32 or int64.
        targets: shape (rows,) of int64, or (rows, ...) of float32.
    """

    inputs: Array
    targets: Array

    @property
    def classes(self) -> bool:
        """True if the targets are classes."""
        return self.targets.dtype.kind in "iu"

    @property
    def unit(self) -> str:
        """The unit of differences of scores."""
        return "points" if self.classes else "mean square"

    def split(self, seed: int) -> tuple[Array, Array, Array]:
        """Numbers of the rows for training (60 %), validation (20 %) and the test (20 %).

        The test rows are the same for every seed, so that none of them has chosen anything; the others are shuffled.
        """
        order = np.random.default_rng(0).permutation(len(self.targets))
        first, last = round(0.6 * len(order)), round(0.8 * len(order))
        rest = np.random.default_rng([1, seed]).permutation(order[:last])
        return rest[:first], rest[first:], order[last:]

    def constant_scores(self) -> Array:
        """The score of every test row if the answer were the same for all rows; no model is needed for it.

        The answer comes from the other rows: the class that most of them have, or the mean of their targets.

        Returns:
            shape (test rows,), float64.
        """
        first, second, test = self.split(0)
        known, targets = self.targets[np.concatenate([first, second])], self.targets[test]
        if self.classes:
            most_common: Array = 100.0 * (targets == np.bincount(known).argmax())
            return most_common
        squares = np.square(targets - known.mean(axis=0, dtype=np.float64), dtype=np.float64)
        around_the_mean: Array = -squares.reshape(len(test), -1).mean(axis=1)
        return around_the_mean

    def scores(self, outputs: Array, rows: Array) -> Array:
        """The score of each row's output, the higher the better: 100 or 0 for a class, or minus the mean square.

        Args:
            outputs: the model's, for those rows; of one column and classes, what is above 0 is class 1.
            rows: their numbers.

        Returns:
            shape (rows,), float64; all NaN where an output is not finite.
        """
        if not np.isfinite(outputs).all():
            return np.full(len(rows), np.nan)
        targets = self.targets[rows]
        if not self.classes:
            squares = np.square(outputs.reshape(targets.shape) - targets, dtype=np.float64)
            values: Array = -squares.reshape(len(rows), -1).mean(axis=1)
            return values
        best = outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        right: Array = 100.0 * (best == targets)
        return right

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse outputs of a model that do not fit the targets.

        Args:
            shape: of the outputs, the rows first.

        Raises:
            NormwiseError: they do not.
        """
        columns = shape[1:]
        if not self.classes:
            wanted = self.targets.shape[1:]
            if int(np.prod(columns)) != int(np.prod(wanted)):
                raise NormwiseError(
                    f"MODEL must return as many values per row as there are targets per row, received outputs of shape "
                    f"{_shape(columns)} for targets of shape {_shape(wanted)}: change the last layer, or save the "
                    "targets as whole numbers if they are classes."
                )
            return
        highest = int(self.targets.max())
        most = 2 if columns == (1,) else columns[0] if len(columns) == 1 else 0
        if highest >= most:
            raise NormwiseError(
                f"MODEL must return one value for each class, received outputs of shape {_shape(columns)} for "
                f"{highest + 1} classes (0 to {highest}): give the last layer {highest + 1} outputs."
            )


def _shape(columns: tuple[int, ...]) -> str:
    """A shape with the number of rows left open."""
    return f"({', '.join(['rows', *map(str, columns)])})"
