"""What learning curves say: accuracies at looks, of shape (..., looks), in steps to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from normwise.lab.outcomes import Outcomes
from normwise.lab.results import Figure, Panel, Series
from normwise.lab.statistics import Numbers, band


def steps_to(target: float, curves: Numbers, at: Sequence[int]) -> Numbers:
    """Steps until a curve is at ``target`` for the first time, or all: shape (..., looks) to (...)."""
    reached = curves >= target
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1), len(at) - 1)
    return np.array(at, dtype=np.float64)[first]


def fastest(arm: Outcomes, target: float, at: Sequence[int]) -> int:
    """The rate that gets to the target first on validation images, in the geometric mean; then the most accurate."""
    validation = arm.array("validation")
    steps = np.log(steps_to(target, validation, at)).mean(axis=0)
    return int(np.lexsort((-validation[..., -1].mean(axis=0), steps))[0])


def accuracy_by_step(curves: Mapping[str, Numbers], at: Sequence[int], *, network: str, target: float) -> Figure:
    """Test accuracy against steps, a line for each arm by its name; curves of shape (seeds, looks)."""
    steps = tuple(float(step) for step in at)
    lines = (Series(arm, steps, *(tuple(line) for line in band(values))) for arm, values in curves.items())
    return Figure(
        name="accuracy_by_step",
        title="Test accuracy against steps",
        caption="Each at the rate that gets to the mark first. Line: mean over seeds; band: smallest to largest.",
        x_label="steps",
        y_label="test accuracy",
        panels=(Panel(network, tuple(lines), ((target, f"{target:.2f}"),)),),
        x_scale="log",
    )
