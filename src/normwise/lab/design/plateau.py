"""Trainings that are not at their end: where they stand then is no answer to where a network ends."""

from __future__ import annotations

from collections.abc import Iterable

from normwise.lab.design.arms import Arm
from normwise.lab.intervals import Numbers

PLATEAU = 1.0
"""Points of accuracy on validation images by which a network may still rise in the last third of its training."""


def two_thirds(steps: int) -> int:
    """The step after which the last third begins.

    Example:
        >>> two_thirds(600)
        400
    """
    return steps * 2 // 3


def unfinished(late: Numbers, end: Numbers, words: Iterable[str] = ()) -> str:
    """The obstacle of a network that still learns; or empty.

    Args:
        late: accuracies on validation images after two thirds of the steps, shape (seeds,).
        end: after all of them.
        words: whose they are.

    Example:
        >>> import numpy as np
        >>> unfinished(np.array([0.90, 0.91]), np.array([0.93, 0.93]), ["without"])
        'the training did not reach a plateau (without)'
        >>> unfinished(np.array([0.90, 0.91]), np.array([0.90, 0.92]))
        ''
    """
    if 100 * float((end - late).mean()) <= PLATEAU:
        return ""
    whose = ", ".join(words)
    return f"the training did not reach a plateau{f' ({whose})' if whose else ''}"


def still_learns(*arms: Arm) -> str:
    """The obstacle of the first arm that still learns at the rate that is picked for it; or empty.

    Args:
        *arms: that measured ``late`` and ``validation``, which are those of ``unfinished``.
    """
    each = (unfinished(arm.numbers("late"), arm.numbers("validation"), arm.words.values()) for arm in arms)
    return next(filter(None, each), "")
