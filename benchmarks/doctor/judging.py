"""Runs the corpus: builds each case, drops faults that do no harm, and examines the rest."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.doctor import faults as _operators
from benchmarks.doctor import zoo
from benchmarks.doctor.case import Fault
from benchmarks.doctor.case import faults as chosen
from benchmarks.doctor.digits import Batches
from benchmarks.doctor.healthy import Healthy
from benchmarks.doctor.scores import Examined
from benchmarks.doctor.training import accuracy, evaluate
from normwise.doctor import Severity, examine

assert _operators.__all__  # importing them has listed them
CALIBRATION = (0, 1)
"""Seeds that limits were set on."""
JUDGING = (2, 3)
"""Seeds that nothing was set on."""

Said = tuple[tuple[str, tuple[str, ...], str], ...]


def one_thread() -> None:
    """For processes side by side."""
    torch.set_num_threads(1)


def sick_ones(only: str | None, kinds: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[Fault, str, int]]:
    """Operator x kind x seed."""
    return (
        (each, kind, seed) for each in chosen(only) for kind in each.kinds if kind in kinds or len(each.kinds) == 1
        for seed in seeds
    )  # fmt: skip


def examine_sick(fault: Fault, kind: str, seed: int) -> Examined | None:
    """One sick model; None where the fault did no harm."""
    patient = fault.build(kind, seed)
    if not patient.harm.done:
        return None
    said, seconds, problem = diagnose(patient.model, patient.batches, patient.given)
    harm = f"{patient.harm.value:.3g} {patient.harm.what}"
    return Examined(
        fault.name, fault.check, kind, seed, said, patient.guilty, tuple(sorted(fault.also)), harm, seconds, problem
    )


def examine_healthy(build: Callable[[str, int], Healthy], kind: str, seed: int) -> Examined:
    """One healthy model."""
    case = build(kind, seed)
    said, seconds, problem = diagnose(case.model, case.batches, case.given)
    return Examined(build.__name__, "", kind, seed, said, seconds=seconds, problem=problem)


def examine_network(room: str, name: str) -> tuple[Examined, str]:
    """One network of another package, and why it is not healthy, or ""."""
    case = zoo.healthy(room, name)
    said, seconds, problem = diagnose(case.model, case.batches, case.given)
    right = f"{evaluate(case.model, case.batches)[1]:.2f}"
    found = Examined(f"{room}: {name}", "", "network", 0, said, (), (), right, seconds, problem)
    return found, zoo.why_unhealthy(case)


def diagnose(model: nn.Module, batches: Batches, given: Mapping[str, Any]) -> tuple[Said, float, str]:
    """What the doctor says that is more than a note, the seconds, and the exception that ended it."""
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch says of single samples and the like is not what is judged
            found = examine(model, batches, **{"loss": cross_entropy, "metric": accuracy, **given})
    except Exception as error:  # an examination that ends so is a case that counts as not found, with the reason
        return (), time.perf_counter() - start, f"{type(error).__name__}: {error}"
    said = tuple(
        (each.check, each.layers, str(each.severity)) for each in found.findings if each.severity is not Severity.NOTE
    )
    return said, time.perf_counter() - start, ""
