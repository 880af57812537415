"""The faults of the corpus: operators that make a sick model beside its healthy twin, and the harm that they do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.doctor.digits import Batches, held_out
from benchmarks.doctor.models import KINDS
from benchmarks.doctor.training import evaluate

WORSE_LOSS = 1.2
"""A fault has done harm when the loss is so many times the twin's."""
WORSE_ACCURACY = 0.02
"""The share of the answers that is no longer right from which a fault has done harm, if the loss says so too."""
WORSE_LOSS_TOO = 1.05
"""The loss says so too when it is so many times the twin's: in a model that knows nothing, answers change by chance."""


class Harm(NamedTuple):
    """A number that says what a fault costs, in a measurement that is none of the doctor's.

    Attributes:
        value: what was measured.
        what: in words.
        done: whether that is harm.
    """

    value: float
    what: str
    done: bool


@dataclass(frozen=True)
class Patient:
    """A model to be examined.

    Args:
        model: sick.
        twin: the same, trained in the same way, without the fault.
        harm: that the fault does.
        guilty: the layers of which one has to be named first; empty where it is the whole model or the data.
        batches: what the doctor gets.
        given: what else it gets.
    """

    model: nn.Module
    twin: nn.Module
    harm: Harm
    guilty: tuple[str, ...] = ()
    batches: Batches = field(default_factory=held_out)
    given: Mapping[str, Any] = field(default_factory=dict)


Build = Callable[[str, int], Patient]


@dataclass(frozen=True)
class Fault:
    """An operator.

    Args:
        name: of the operator.
        check: that has to find it.
        says: what is done.
        kinds: of models that it can be done to.
        build: a kind and a seed -> the patient.
        also: checks whose findings are true of it too, and count neither for nor against.
    """

    name: str
    check: str
    says: str
    kinds: tuple[str, ...]
    build: Build
    also: frozenset[str]


FAULTS: list[Fault] = []


def fault(check: str, *kinds: str, also: tuple[str, ...] = ()) -> Callable[[Build], Build]:
    """Make a function an operator of the corpus; its docstring says what it does."""

    def listed(build: Build) -> Build:
        says = (build.__doc__ or "").strip()
        FAULTS.append(Fault(build.__name__, check, says, kinds or tuple(KINDS), build, frozenset(also)))
        return build

    return listed


def loss_harm(
    model: nn.Module, twin: nn.Module, batches: Batches | None = None, of_twin: Batches | None = None
) -> Harm:
    """The held-out loss over the twin's, and the accuracy that is lost."""
    batches = held_out() if batches is None else batches
    loss, right = evaluate(model, batches)
    before, right_before = evaluate(twin, batches if of_twin is None else of_twin)
    done = does_harm(loss, before, right_before - right)
    return Harm(loss / before, f"times the twin's loss; accuracy {right:.3f} after {right_before:.3f}", done)


def does_harm(loss: float, before: float, lost: float) -> bool:
    """True if a loss after another one, and the share of the answers that is lost, are harm."""
    return not loss <= WORSE_LOSS * before or (loss >= WORSE_LOSS_TOO * before and lost >= WORSE_ACCURACY)


def behind(model: nn.Module, batches: Batches, learned: Batches) -> str:
    """Say why a trained model is not healthy: its training left the statistics behind its weights; or "".

    PyTorch estimates the statistics once more with the weights as they are, which is no measurement of the doctor's.
    Where that helps as much as the corpus calls harm, they were not those of the weights.

    Args:
        model: is not changed.
        batches: held-out ones.
        learned: those that it learned from.
    """
    right = copy.deepcopy(model)
    torch.optim.swa_utils.update_bn(learned, right)
    return in_words(loss_harm(model, right, batches))


def in_words(harm: Harm) -> str:
    """The harm of statistics that were left behind, as a clause; empty where there is none."""
    return f"its loss is {harm.value:.1f} {harm.what} with statistics estimated once more" if harm.done else ""


def faults(only: str | None) -> Iterator[Fault]:
    """All operators, or those of one check."""
    return (each for each in FAULTS if only is None or each.check == only)
