"""Runs cases: builds each, drops faults that do no harm, and examines the rest."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.doctor import faults as _operators
from benchmarks.doctor import judged_before, keras_cases, keras_zoo, zoo
from benchmarks.doctor.case import FAULTS, behind
from benchmarks.doctor.digits import DATA, LEARNED, Batches, held_out, images, to_learn
from benchmarks.doctor.healthy import STATES
from benchmarks.doctor.models import FAMILIES, KINDS
from benchmarks.doctor.scores import Examined
from benchmarks.doctor.training import accuracy, evaluate, trained
from normwise.doctor import Severity, examine

assert _operators.__all__  # importing them has listed them

Said = tuple[tuple[str, tuple[str, ...], str], ...]


class Part(NamedTuple):
    """Models, seeds and data that belong together.

    Attributes:
        data: the data set.
        kinds: of models.
        seeds: of each.
    """

    data: str
    kinds: tuple[str, ...]
    seeds: tuple[int, ...]


DEVELOPMENT = (Part("digits", (*KINDS, *judged_before.KINDS, *keras_cases.DEVELOPMENT), (31, 32)),)
"""The cases that limits and rules may be chosen on."""
JUDGING = (
    Part("digits", ("tapered", "keras wide"), (60,)),
    Part("digits", ("bottlenecks",), (61,)),
    Part("digits", ("pooled",), (62,)),
    Part("digits", ("columns", "keras separable"), (63,)),
    Part("mnist", ("pooled",), (64,)),
    Part("mnist", ("columns", "keras separable"), (65,)),
    Part("mnist", ("tapered", "keras wide"), (66,)),
    Part("mnist", ("bottlenecks",), (67,)),
)
"""The cases that nothing is chosen on. After a change of a rule, these seeds are used up.

Each kind is seen on both data sets and with both optimizers (``training.with_adam``), each data set with both
optimizers, and each of these four with both variants of the operators that ask whether a seed is odd.
"""

CHECKS = {each.name: each.check for each in FAULTS} | {name: of[0] for name, of in keras_cases.FAULTS.items()}
"""The operator -> the check that has to find it."""
Where = tuple[str, str, str, int]


LATE = "late"
"""The result of a case that there was no time for; a text, because no object stays itself between processes."""


def in_time(until: float | None, examine: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    """The result of an examination of a case, or ``LATE`` where it would begin after that time."""
    return examine(*case) if until is None or time.time() < until else LATE


def one_thread() -> None:
    """Let a process compute in one thread, because processes run side by side."""
    torch.set_num_threads(1)


def sick(parts: Sequence[Part], only: str | None) -> Iterator[Where]:
    """Operator x kind x seed: data, operator, kind, seed."""
    for part in parts:
        for fault in FAULTS:
            if only in {None, fault.check}:
                kinds = [kind for kind in part.kinds if FAMILIES.get(kind, kind) in fault.kinds]
                if kinds and len(fault.kinds) == 1:  # the operator builds its own model
                    kinds = [*fault.kinds]
                yield from ((part.data, fault.name, kind, seed) for kind in kinds for seed in part.seeds)
        for name, (check, _, _) in keras_cases.FAULTS.items():
            if only in {None, check}:
                yield from ((part.data, name, kind, seed) for kind in _of_keras(part) for seed in part.seeds)


def healthy(parts: Sequence[Part]) -> Iterator[Where]:
    """State x kind x seed, as ``sick``."""
    for part in parts:
        of_torch = [kind for kind in part.kinds if kind not in _of_keras(part)]
        yield from ((part.data, f.__name__, kind, seed) for f in STATES for kind in of_torch for seed in part.seeds)
        names = keras_cases.HEALTHY
        yield from ((part.data, name, kind, seed) for name in names for kind in _of_keras(part) for seed in part.seeds)


def _of_keras(part: Part) -> list[str]:
    return [kind for kind in part.kinds if kind.startswith("keras")]


def examine_sick(data: str, name: str, kind: str, seed: int) -> Examined | None:
    """One sick model; None where the fault did no harm. What cannot be built counts as not found, with the reason."""
    DATA.set(data)
    try:
        return _examine_sick(data, name, kind, seed)
    except Exception as error:  # one of hundreds: the others go on
        check = CHECKS[name]
        return Examined(name, check, kind, seed, (), problem=f"not built: {type(error).__name__}: {error}", data=data)


def _examine_sick(data: str, name: str, kind: str, seed: int) -> Examined | None:
    if name in keras_cases.FAULTS:
        check, _, build = keras_cases.FAULTS[name]
        case = build(kind, seed)
        assert case.harm is not None  # it is a fault
        harm, guilty, also = case.harm, case.guilty, frozenset[str]()
        model, batches, given = case.model, case.batches, {**_OF_KERAS, **case.given}
    else:
        fault = next(each for each in FAULTS if each.name == name)
        patient = fault.build(kind, seed)
        check, harm, guilty, also = fault.check, patient.harm, patient.guilty, fault.also
        model, batches, given = patient.model, patient.batches, {**_OF_TORCH, **patient.given}
    if not harm.done:
        return None
    said, seconds, problem = diagnose(model, batches, given)
    words = f"{harm.value:.3g} {harm.what}"
    return Examined(name, check, kind, seed, said, guilty, tuple(sorted(also)), words, seconds, problem, data)


def examine_healthy(data: str, name: str, kind: str, seed: int) -> tuple[Examined, str]:
    """One healthy model, and why its training did not leave a healthy one, or ""."""
    DATA.set(data)
    try:
        model, batches, given = healthy_model(name, kind, seed)
        why = _left_behind(kind, seed)
    except Exception as error:  # as above
        words = f"not built: {type(error).__name__}: {error}"
        return Examined(name, "", kind, seed, (), problem=words, data=data), ""
    said, seconds, problem = diagnose(model, batches, given)
    return Examined(name, "", kind, seed, said, seconds=seconds, problem=problem, data=data), why


def _left_behind(kind: str, seed: int) -> str:
    """Why the training that all states of a kind and a seed come from left no healthy model, or ""."""
    if kind.startswith("keras"):
        model = keras_cases.trained(kind, seed)
        x = images()[0].numpy()[:LEARNED]
        return keras_cases.behind(model, keras_cases.norms(model), keras_cases.held_out(), x)
    return behind(trained(kind, seed), held_out(), to_learn(seed))


def healthy_model(name: str, kind: str, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """One healthy model, the batches, and what else the doctor gets."""
    if name in keras_cases.HEALTHY:
        of_keras = keras_cases.HEALTHY[name](kind, seed)
        return of_keras.model, of_keras.batches, {**_OF_KERAS, **of_keras.given}
    case = next(each for each in STATES if each.__name__ == name)(kind, seed)
    return case.model, case.batches, {**_OF_TORCH, **case.given}


def examine_network(room: str, name: str) -> tuple[Examined, str]:
    """One network of another package, and why it is not healthy, or ""."""
    if room == zoo.KERAS:
        return _examine_keras_network(name)
    try:
        case = zoo.healthy(room, name)
    except Exception as error:  # some take no images of this size
        words = f"it could not be trained ({type(error).__name__}: {str(error).splitlines()[0][:100]})"
        return Examined(f"{room}: {name}", "", "network", 0, ()), words
    said, seconds, problem = diagnose(case.model, case.batches, {**_OF_TORCH, **case.given})
    right = f"{evaluate(case.model, case.batches)[1]:.2f}"
    found = Examined(f"{room}: {name}", "", "network", 0, said, (), (), right, seconds, problem)
    return found, zoo.why_unhealthy(case)


def _examine_keras_network(name: str) -> tuple[Examined, str]:
    case = keras_zoo.healthy(name)
    said, seconds, problem = diagnose(case.model, case.batches, _OF_KERAS)
    right = f"{keras_cases.measured(case.model, case.batches)[1]:.2f}"
    found = Examined(f"{zoo.KERAS}: {name}", "", "network", 0, said, (), (), right, seconds, problem)
    return found, keras_zoo.why_unhealthy(case)


_OF_TORCH: Mapping[str, Any] = {"loss": cross_entropy, "metric": accuracy}
_OF_KERAS: Mapping[str, Any] = {"loss": keras_cases.loss, "metric": keras_cases.accuracy}


def diagnose(model: nn.Module, batches: Batches, given: Mapping[str, Any] = _OF_TORCH) -> tuple[Said, float, str]:
    """The doctor's findings that are more than a note, the seconds, and the exception that ended the examination."""
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PyTorch says of single samples and the like is not what is judged
            found = examine(model, batches, **given)
    except Exception as error:  # an examination that ends so is a case that counts as not found, with the reason
        return (), time.perf_counter() - start, f"{type(error).__name__}: {error}"
    said = tuple(
        (each.check, each.layers, str(each.severity)) for each in found.findings if each.severity is not Severity.NOTE
    )
    return said, time.perf_counter() - start, ""
