"""The operations that the zoo tries: a row each, so that another one is another row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import normwise


@dataclass(frozen=True)
class Trying:
    """What an operation is given.

    Args:
        model: a copy of its own, in training mode.
        batches: inputs of the model.
        followed: its batch norms that an activation follows, by ``followed.followed``; empty for Keras.
    """

    model: Any
    batches: Sequence[Any]
    followed: Mapping[str, str]


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    Args:
        apply: does it, and returns what is to be kept of its report.
        frameworks: whose models it takes.
        same: whether the model must compute the same before and after, in training and in inference.
    """

    apply: Callable[[Trying], dict[str, Any]]
    frameworks: tuple[str, ...] = ("torch", "keras")
    same: bool = True


def _fuse(trying: Trying) -> dict[str, Any]:
    report = normwise.fuse(trying.model)
    reasons: Any = report.swapped
    swapped = reasons if isinstance(reasons, Mapping) else dict.fromkeys(reasons, "")
    missed = {
        name: report.left.get(name) or swapped.get(name, "") for name in trying.followed if name not in report.fused
    }
    return {
        "fused": len(report.fused),
        "swapped": len(swapped),
        "left": len(report.left),
        "reached": sum(name in report.fused for name in trying.followed),
        "why_swapped": dict(Counter(swapped.values())),
        "why_left": dict(Counter(report.left.values())),
        "missed": {name: f"{trying.followed[name]}: {why}" for name, why in missed.items()},
    }


def _recalibrate(trying: Trying) -> dict[str, Any]:
    report = normwise.recalibrate(trying.model, trying.batches)
    return {"said": str(report).partition("\n")[0]}


OPERATIONS: dict[str, Operation] = {
    "fuse": Operation(_fuse, frameworks=("torch",)),
    "recalibrate": Operation(_recalibrate, same=False),
}
