"""Descriptions, for errors, of what the user gave, and calls of it: a failure is one sentence, its error chained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from normwise.doctor.subject import Subject
from normwise.entering import described, is_array, noted
from normwise.errors import CallFailed, NormwiseError
from normwise.failures import sentence

Function = Callable[[Any, Any], Any]

FORWARD = "pass forward_fn to normwise.examine, a function of the model and a batch"
"""The remedy for batches that a model does not take; the command line has an option in its place."""


def numbered(batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Batches with their numbers from 1.

    Raises:
        CallFailed: the next one could not be read.
        NormwiseError: one without samples.
    """
    source, number = iter(batches), 0
    while True:
        number += 1
        try:
            batch = next(source)
        except StopIteration:
            return
        except Exception as error:
            raise CallFailed(
                f"examine could not read batch {number}: {sentence(error)}; pass data of which every batch can be read."
            ) from error
        if any(len(array.shape) and not array.shape[0] for array in _arrays(batch)[:1]):
            raise NormwiseError(
                f"examine received a batch without samples (batch {number}, {described(batch)}): leave it out."
            )
        yield number, batch


def run(subject: Subject, batch: Any, number: int) -> Any:
    """One batch through the model.

    Args:
        subject: the model.
        batch: a batch.
        number: of it, from 1.

    Raises:
        CallFailed: the model does not take it.
    """
    try:
        return subject.forward(batch)
    except Exception as error:
        called, _, remedy = noted(error)
        called = f"; {called}" if called and isinstance(batch, tuple | list | Mapping) else ""
        remedy = remedy or f"give the model {subject.takes()}: change the batches, or {FORWARD}"
        raise CallFailed(
            f"examine could not run the model on batch {number}, {described(batch)}: {_in_layer(subject, error)}"
            f"{called}; {remedy}."
        ) from error


def measured(subject: Subject, name: str, function: Function, result: Any, targets: Any, number: int) -> float:
    """A loss or metric of what the model gave for a batch.

    Args:
        subject: the model.
        name: ``"loss"`` or ``"metric"``.
        function: it.
        result: what the model gave.
        targets: of the batch.
        number: of the batch, from 1.

    Raises:
        CallFailed: the function failed, or returned what is no number.
    """
    try:
        value = function(result, targets)
    except Exception as error:
        raise CallFailed(
            f"{name} failed on batch {number}: {sentence(error)}; it received outputs that are {described(result)} and "
            f"targets that are {described(targets)}: pass a function of these two that returns one number."
        ) from error
    try:
        return subject.number(value)
    except Exception as error:
        remedy = "take the mean over the batch" if is_array(value) else "return one number"
        raise CallFailed(
            f"{name} must return one number for a batch, received {described(value)}: {remedy}."
        ) from error


def stepping(train_step: Function, batches: list[Any]) -> Callable[[Any, Any], None]:
    """A step of training whose error says which batch it was given.

    Args:
        train_step: the user's, of a model and a batch.
        batches: those that it will be given.
    """

    def step(model: Any, batch: Any) -> None:
        try:
            train_step(model, batch)
        except Exception as error:
            number = next((number for number, each in enumerate(batches, start=1) if each is batch), 1)
            raise CallFailed(
                f"train_step failed on batch {number}, {described(batch)}: {sentence(error)}; pass a function of the "
                "model and a batch that does one step of the optimizer as your loop does it."
            ) from error

    return step


def check_functions(**given: Any) -> None:
    """Refuse what is given for a function and cannot be called, or is a class, whose call gives an instance.

    Args:
        given: by the names of the keywords; None where nothing was given.

    Raises:
        NormwiseError: the message says of what it has to be a function.
    """
    of = {"loss": "outputs and targets", "metric": "outputs and targets"}
    for name, thing in given.items():
        what_of = of.get(name, "the model and a batch")
        if isinstance(thing, type):
            kind = thing.__name__
            raise NormwiseError(
                f"{name} must be a function of {what_of}, received the class {kind}: pass an instance, {kind}()."
            )
        if thing is not None and not callable(thing):
            what = repr(thing) if isinstance(thing, str | int | float) else described(thing)
            raise NormwiseError(f"{name} must be a function of {what_of}, received {what}: pass the function itself.")


def finite(batch: Any) -> bool:
    """True if all numbers in a batch are finite."""
    return all(np.isfinite(_values(array)).all() for array in _arrays(batch))


def _values(array: Any) -> Any:
    return array.detach().cpu().double().numpy() if hasattr(array, "detach") else np.asarray(array).astype(np.float64)


def _arrays(batch: Any) -> list[Any]:
    """The arrays of numbers in a batch, in order."""
    if is_array(batch):
        return [batch] if any(kind in str(batch.dtype) for kind in ("float", "int", "bool")) else []
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return [array for item in items for array in _arrays(item)]


def _in_layer(subject: Subject, error: Exception) -> str:
    """The error's sentence, with the layer that it came out of in the place of a line of the framework's."""
    said, layer, kind = sentence(error), subject.place_of(error), type(error).__name__
    _, colon, words = said.partition(": ")
    return f"{kind} in {layer}: {words}" if layer and colon and said.startswith(kind) else said
