"""Steps to a target, from learning curves: accuracies at looks, of shape (..., looks)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from normwise.lab.design import Arm, Arms, by_step, geometric
from normwise.lab.design.arms import TIE, pick
from normwise.lab.intervals import Numbers
from normwise.lab.results import Figure

A_LOOK = float(np.log(1.1))
"""Looks are 10 % apart, so that steps that differ by no more are equal."""


def steps_to(target: float, curves: Numbers, at: Sequence[int]) -> Numbers:
    """Steps until a curve is at ``target`` for the first time, or all: shape (..., looks) to (...)."""
    reached = curves >= target
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1), len(at) - 1)
    return np.array(at, dtype=np.float64)[first]


def largest_usable(accuracies: Numbers, rates: Sequence[float], enough: float) -> Numbers:
    """The largest rate at which each seed is accurate enough: shape (seeds, rates) to (seeds,).

    Where none is, it is taken for one step of the grid below the smallest.
    """
    usable = np.where(accuracies >= enough, np.array(rates), -np.inf).max(axis=1)
    below = rates[0] ** 2 / rates[1] if len(rates) > 1 else rates[0]
    return np.where(np.isfinite(usable), usable, below)


def fastest(validation: Numbers, target: float, at: Sequence[int]) -> int:
    """The rate that gets to the target first in the geometric mean over seeds; then the most accurate at the end.

    Args:
        validation: accuracies on validation images, shape (seeds, rates, looks).
        target: the accuracy to reach.
        at: after which steps the looks are.
    """
    steps = np.log(steps_to(target, validation, at)).mean(axis=0)
    ends = validation[..., -1].mean(axis=0)
    # the end decides where steps are equal, as when no rate gets there
    return pick(-steps + ends * 1e-6, A_LOOK, ends)


def first_to(target: float, at: Sequence[int]) -> Callable[[Arm], int]:
    """Picks for an arm the rate that gets to the target first on validation images, as ``fastest``."""
    return lambda arm: fastest(arm.array("validation"), target, at)


def ends_best(arm: Arm) -> int:
    """Picks for an arm the rate that ends best on validation images, in the mean over seeds."""
    ends = np.moveaxis(arm.array("validation")[..., -1], 1, 0).copy()  # a mean over seeds is that of one rate alone
    scores = np.array([end.mean() for end in ends])
    return pick(scores, TIE, scores)


def in_steps(curves: Numbers, target: float, at: Sequence[int]) -> str:
    """A cell: the geometric mean of the steps to the target with its interval, from curves of shape (seeds, looks)."""
    return geometric(steps_to(target, curves, at), 0)


def got_there(curves: Numbers, target: float) -> str:
    """A cell: of how many seeds the curve is at the target at some look, from curves of shape (seeds, looks)."""
    return how_many(curves.max(axis=1) >= target)


def how_many(seeds: npt.NDArray[np.bool_]) -> str:
    """A cell: for how many seeds it is so, and how many there are."""
    return f"{int(seeds.sum())} of {len(seeds)}"


def accuracy_by_step(arms: Arms, at: Sequence[int], *, network: str, target: float) -> Figure:
    """Test accuracy against steps, a line for each arm, with a mark at the target."""
    return by_step(
        "Test accuracy against steps",
        [arms],
        network,
        at,
        caption="Each at the rate that gets to the mark first.",
        marks=((target, f"{target:.2f}"),),
    )
